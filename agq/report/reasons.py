"""Why a page cannot show something."""

NO_TEXT = "no text was read: none was named, and that of the calibration is not on this machine"
NO_ORIGINAL = "the original model was not named"
PACKED = "the kernels alone see the inputs of a packed file; the folder that it was packed from shows them"
NOT_SAID = "this model does not say how it was made"
