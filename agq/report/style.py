"""The style sheet of a page: light and dark by the reader's own setting, one column on a telephone."""

STYLE = """
:root{--paper:#fcfcfb;--card:#fff;--ink:#1d1d1b;--soft:#5f5e5a;--rule:#e2e0da;--bar:#3f6fc4;--heat:#c2410c;
--s0:#3f6fc4;--s1:#d1661a;--s2:#1f8a63;--s3:#8a4fb0;--s4:#6b6a66}
@media (prefers-color-scheme:dark){:root{--paper:#161615;--card:#1e1e1c;--ink:#ecebe6;--soft:#a5a39c;--rule:#383733;
--bar:#7da2ea;--heat:#fb8a4c;--s0:#7da2ea;--s1:#f0955a;--s2:#54bd95;--s3:#c08fe0;--s4:#a5a39c}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
main{max-width:62rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.6rem;line-height:1.2;margin:0}
h2{font-size:1.2rem;margin:2.5rem 0 .25rem;border-top:1px solid var(--rule);padding-top:1.25rem}
h3{font-size:1rem;margin:1.25rem 0 .25rem}
p{margin:.4rem 0}
.sub,.intro,.unit,.missing{color:var(--soft)}
.story{margin-top:1rem;padding:.75rem 1rem;border-left:4px solid var(--bar);background:var(--card);font-size:1.1rem}
.missing{border:1px dashed var(--rule);border-radius:6px;padding:.5rem .75rem}
.charts{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));margin:.75rem 0}
figure{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:6px;padding:.6rem;min-width:0;
max-width:31rem}
figcaption{font-size:.9rem;margin-bottom:.4rem}
figure>svg{display:block;width:100%;height:auto}
.keys{display:flex;flex-wrap:wrap;gap:.1rem .8rem;color:var(--soft);font-size:.8rem;align-items:center}
.key{display:inline-flex;align-items:center;gap:.3rem}
.swatch{width:.7rem;height:.7rem}.ramp{width:4rem;height:.7rem}
text{fill:var(--soft);font:11px system-ui,sans-serif}
.axis{fill:var(--soft)}
.grid{stroke:var(--rule);stroke-width:1}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round}
.line.s0{stroke:var(--s0)}.line.s1{stroke:var(--s1)}.line.s2{stroke:var(--s2)}.line.s3{stroke:var(--s3)}
.line.s4{stroke:var(--s4)}
.dot.s0,.fill.s0{fill:var(--s0)}.dot.s1,.fill.s1{fill:var(--s1)}.dot.s2,.fill.s2{fill:var(--s2)}
.dot.s3,.fill.s3{fill:var(--s3)}.dot.s4,.fill.s4{fill:var(--s4)}
.bar{fill:var(--bar)}.heat{fill:var(--heat)}.none{fill:none;stroke:var(--rule)}
.scroll{overflow-x:auto;margin:.5rem 0}
table{border-collapse:collapse;font-size:.9rem;width:100%}
th,td{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid var(--rule);vertical-align:top;
overflow-wrap:normal}
.pairs td{overflow-wrap:anywhere}
th{color:var(--soft);font-weight:600}
.right{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
summary{cursor:pointer;margin:.75rem 0}
"""
