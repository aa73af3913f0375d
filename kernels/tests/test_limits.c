/* The measured limits: they exist, and bad arguments give 0 instead of a crash.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "test.h"

int main(void) {
  if (!test_begin()) return 0;
  test_expect(agq_peak_name()[0] != 0, "the peak has a name");
  for (int threads = 1; threads <= 3; threads++) {
    test_expect(agq_measure_peak(threads, 1e-3) > 1e6, "peak");
    test_expect(agq_measure_bandwidth(threads, 1 << 20, 1e-3) > 1e6, "bandwidth");
  }
  test_expect(agq_measure_bandwidth(1, 0, 1e-6) > 0, "the smallest buffer is one item");
  test_expect(agq_measure_peak(0, 1) == 0 && agq_measure_peak(1, 0) == 0, "bad arguments of the peak");
  test_expect(agq_measure_bandwidth(0, 1, 1) == 0 && agq_measure_bandwidth(1, 1, -1) == 0,
              "bad arguments of the bandwidth");
  test_expect(agq_measure_bandwidth(1, (size_t)-1, 1) == 0, "an impossible buffer");
  return test_end("limits");
}
