# SPDX-License-Identifier: Apache-2.0
"""How the page of a run looks, in light, in dark, on a phone and on paper: the linter's page, and what it lacks.

Lines take the colours of Okabe and Ito 2008 (Color Universal Design), a little darker on white and lighter on black.
"""

from typing import Final

from unified.data.lint.style import STYLE as COMMON

STYLE: Final = (
    COMMON
    + """
:root{color-scheme:light dark;--c0:#0072b2;--c1:#d55e00;--c2:#008f68;--c3:#b8588f;--c4:#a87400;--c5:#3a96cf;
--c6:#7e2954;--c7:#5f6672;--many:#c3c9d3;--head:#f6f7f9e8;--right:#008f68;--wrong:#d55e00}
@media (prefers-color-scheme:dark){:root{--c0:#56a8e8;--c1:#ff8a4c;--c2:#2fc79a;--c3:#e79ac8;--c4:#f0b429;--c5:#9ad0f5;
--c6:#d686b0;--c7:#a5adba;--many:#3f4755;--head:#12151be8;--right:#2fc79a;--wrong:#ff8a4c}}
html{scroll-behavior:smooth;scroll-padding-top:56px}
body{font-size:15px;line-height:1.55;-webkit-text-size-adjust:100%}
main{padding-top:20px}
header{justify-content:space-between;margin:14px 0 18px}
header p{margin:2px 0 0}
h1{font-size:28px;line-height:1.2;letter-spacing:-.02em}
h2{font-size:20px;letter-spacing:-.01em;margin-bottom:4px}
h3{font-size:15px;margin:28px 0 10px}
h2+p,h3+p{margin:0 0 14px;max-width:72ch}
section{padding:24px 26px;margin-bottom:22px;border-radius:14px}
.soft{max-width:90ch}
h2,h3,p,dt,dd,figcaption,summary,.chip{overflow-wrap:anywhere}
.lines td:nth-child(2){white-space:normal;width:auto}
.verdict.calm{background:#667085}
.tiles{grid-template-columns:repeat(auto-fit,minmax(132px,1fr));margin-bottom:22px}
.tile b{font-variant-numeric:tabular-nums;font-weight:650;white-space:nowrap}
nav{position:sticky;top:0;z-index:3;background:var(--head);backdrop-filter:blur(8px);
border-bottom:1px solid var(--line)}
nav div{max-width:1180px;margin:0 auto;padding:0 20px;display:flex;gap:4px;overflow-x:auto;scrollbar-width:none}
nav a{color:var(--soft);text-decoration:none;padding:10px 12px;white-space:nowrap;font-weight:550;
border-bottom:2px solid transparent}
nav a:hover,nav a.here{color:var(--ink)}
nav a.here{border-color:var(--c0)}
:focus-visible{outline:2px solid var(--c0);outline-offset:2px;border-radius:4px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,270px),1fr));gap:16px;margin:12px 0}
.card{border:1px solid var(--line);border-radius:12px;padding:16px 18px 10px}
.card h3{margin:0;font-size:14px}
.card p{margin:4px 0 12px;color:var(--soft);font-size:13.5px;min-height:2.9em}
.big{display:flex;align-items:baseline;gap:8px}
.big b{font-size:38px;line-height:1.25;letter-spacing:-.03em;font-weight:650;font-variant-numeric:tabular-nums}
.big span{color:var(--soft);font-weight:550}
.spark{width:120px;height:34px;margin-left:auto;align-self:center;overflow:visible}
.spark polyline{fill:none;stroke:var(--c0);stroke-width:2;stroke-linejoin:round}
.spark circle{fill:var(--c0)}
dl{margin:0;font-variant-numeric:tabular-nums}
dl div{display:flex;justify-content:space-between;gap:16px;padding:4px 0;border-top:1px solid var(--line)}
dt{color:var(--soft)}dd{margin:0;text-align:right;overflow-wrap:anywhere}
.facts{columns:2 320px;column-gap:40px}
.facts div{break-inside:avoid}
pre{background:var(--ground);border:1px solid var(--line);border-radius:10px;padding:12px 14px;margin:4px 0 16px;
white-space:pre-wrap;overflow-wrap:anywhere}
pre code{color:var(--ink);font-size:13px}
figure{min-width:0}
figcaption{font-weight:600;font-size:14px}
.parts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:26px 32px;margin-top:14px}
.parts>.table,.parts>.pictures{grid-column:1/-1}
.chart>.soft,.table>.soft,.pictures>.soft{margin:2px 0 6px;font-size:13px}
.chart{display:flex;flex-direction:column}
.stage{position:relative}
.chart svg{display:block;width:100%;height:auto;overflow:visible;touch-action:pan-y}
.map{max-width:540px;grid-row:span 2}
.map svg{border:1px solid var(--line);border-radius:10px}
.rule{stroke:var(--line)}
.along{fill:var(--c0)}.apart{fill:var(--c1)}
.tick{fill:var(--soft);font-size:11px;font-variant-numeric:tabular-nums}
.tick.name{font-style:italic}
.line polyline{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.line.chief polyline{stroke-width:2.6}
.line.faint polyline{stroke-width:1;opacity:.32}
.line.broken polyline{stroke-dasharray:5 4}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}.c5{--c:var(--c5)}
.c6{--c:var(--c6)}.c7{--c:var(--c7)}
.line polyline{stroke:var(--c)}.line .dot{fill:var(--c)}
.pick .line.many{--c:var(--many)}.pick .line.many polyline{stroke-width:1.1}
.pick .line.chief{--c:var(--c0)}
.pick .line.on{--c:var(--c1)}.pick .line.on polyline{stroke-width:2.8}
.mark{display:none}.mark circle{fill:var(--card);stroke:var(--c);stroke-width:2.5}
.mark text{fill:var(--ink);font-size:11.5px;font-weight:600;paint-order:stroke;stroke:var(--card);stroke-width:4px}
.line.chief .mark,.line.on .mark,.chart:not(.pick) .mark{display:inline}
.picking .line.chief .mark text{display:none}
.off{display:none}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;margin:6px 0 8px;min-height:24px;align-items:center}
.chip{display:inline-flex;align-items:center;gap:7px;border:0;background:none;color:var(--ink);font:inherit;font-size:13px;
padding:2px 0;cursor:default;text-align:left}
.chip i{flex:none}
button.chip{cursor:pointer}
.chip[aria-pressed=false]{opacity:.35;text-decoration:line-through}
.chip i{width:16px;height:3px;border-radius:2px;background:var(--c)}
.chip.broken i{background:repeating-linear-gradient(90deg,var(--c) 0 5px,transparent 5px 8px)}
.map .chip i,.chip.before i{width:10px;height:10px;border-radius:50%}
.chip.square i{border-radius:1px!important}
.chip.triangle i{border-radius:0!important;clip-path:polygon(50% 0,100% 100%,0 100%)}
.chip.chief{--c:var(--c0)}.chip.picked{--c:var(--c1)}
select{font:inherit;font-size:13px;color:var(--ink);background:var(--card);border:1px solid var(--line);
border-radius:8px;padding:3px 6px;max-width:220px}
.tip{position:absolute;pointer-events:none;background:var(--card);border:1px solid var(--line);border-radius:9px;
padding:7px 11px;font-size:12.5px;line-height:1.45;box-shadow:0 6px 22px #0003;white-space:nowrap;z-index:2;
font-variant-numeric:tabular-nums;left:0;top:0}
.tip div{display:flex;gap:10px;justify-content:space-between}
.tip i{display:inline-block;width:9px;height:9px;border-radius:50%;background:var(--c);margin-right:6px}
.hair{stroke:var(--soft);stroke-dasharray:3 3;pointer-events:none}
.bead{fill:var(--c);stroke:var(--card);stroke-width:1.5;pointer-events:none}
.numbers{border:0;padding:4px 0 0;font-size:13px}
.numbers summary{color:var(--soft)}
.plain{font-size:12.5px;font-variant-numeric:tabular-nums}
.plain th,.plain td{padding:2px 0 2px 18px;text-align:right;white-space:nowrap}
.plain th:first-child,.plain td:first-child{padding-left:0}
.plain th{color:var(--soft);font-weight:550}
.scroll{max-height:none}
.scroll.tall{max-height:560px}
.sorts{width:100%;font-variant-numeric:tabular-nums;font-size:14px}
.sorts th,.sorts td{padding:5px 0 5px 20px;border-top:1px solid var(--line);text-align:right;white-space:nowrap}
.sorts th:first-child,.sorts td:first-child{padding-left:4px}
.sorts .text{text-align:left;font-weight:500}
.sorts tbody th{max-width:300px;overflow:hidden;text-overflow:ellipsis}
.sorts thead th{position:sticky;top:0;background:var(--card);border-top:0;border-bottom:1px solid var(--line);z-index:1}
.sorts thead button{font:inherit;font-size:13px;font-weight:600;color:var(--soft);background:none;border:0;
padding:4px 0;cursor:pointer;white-space:nowrap}
.sorts thead button::after{content:"";display:inline-block;width:.9em;text-align:center}
.sorts th[aria-sort=ascending] button::after{content:"↑"}.sorts th[aria-sort=descending] button::after{content:"↓"}
.sorts th[aria-sort] button{color:var(--ink)}
.sorts tbody tr:hover{background:var(--ground)}
.picks .sorts tbody tr{cursor:pointer}
.sorts tbody tr.on th{color:var(--c1);font-weight:700}
.num{color:var(--ink);padding-left:0;width:auto}
.states .num,.balance .num{color:var(--soft);padding-left:12px;width:1%}
.barred{min-width:170px}
.barred .bar{display:inline-block;width:104px;height:8px;border-radius:4px;margin-right:12px;vertical-align:middle;
background:linear-gradient(var(--c0),var(--c0)) 0/var(--w) 100% no-repeat var(--unl)}
.cross{font-size:12px;font-variant-numeric:tabular-nums}
.cross th{font-weight:500;white-space:nowrap;padding:0 10px 0 0;text-align:right}
.cross thead th{height:112px;vertical-align:bottom;padding:0;position:relative;min-width:36px}
.cross thead th span{position:absolute;bottom:6px;left:16px;transform:rotate(-55deg);transform-origin:0 100%;
max-width:130px;overflow:hidden;text-overflow:ellipsis}
.cross td{min-width:36px;height:28px;text-align:center;border:1px solid var(--card);background:var(--ground)}
.cross thead td{background:none;border:0}
.cross.many{font-size:11px}.cross.many td,.cross.many thead th{min-width:25px;height:25px}
.cross.many thead th{height:112px}.cross.many thead th span{left:11px}
.cross .own{background:color-mix(in srgb,var(--c0) calc(12% + var(--s)*78%),var(--card))}
.cross .off{display:table-cell;background:color-mix(in srgb,var(--c1) calc(10% + var(--s)*80%),var(--card))}
.cross .dark{color:#fff}
@media (prefers-color-scheme:dark){.cross .dark{color:#10131a}}
.cross tbody tr:last-child td,.cross tbody tr:last-child th{border-top:6px solid var(--card)}
.cross td:last-child{border-left:6px solid var(--card)}
.spread{fill:var(--c);fill-opacity:.34;stroke:var(--c);stroke-width:1.6;stroke-linejoin:round}
.spread.before{--c:var(--c7);fill-opacity:.12;stroke-dasharray:3 2}
.chip.before{--c:var(--c7)}
.chip.identity i{width:0;height:12px;background:none;border-left:2px dashed var(--c1);border-radius:0}
line.identity{stroke:var(--c1);stroke-width:1.5;stroke-dasharray:4 3}
.latents{display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:18px 20px}
.latent figcaption{font-size:13px}.latent p{margin:0;font-size:12.5px}
.latent svg{display:block;width:100%}
.point{fill:var(--c);opacity:.9}.point.none{fill:var(--many);opacity:.8}
.point:hover{opacity:1;stroke:var(--ink);stroke-width:1.5}
.pictures figcaption{margin-bottom:8px}
.cells{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(46%,210px),1fr));gap:14px;align-items:start}
.cells .view svg{aspect-ratio:1}.wide .cells .view svg{aspect-ratio:auto}
.wide .cells{grid-template-columns:repeat(auto-fill,minmax(min(100%,250px),1fr))}
.view{background:var(--ground);border:1px solid var(--line);border-radius:10px;overflow:hidden}
.view svg{display:block;width:100%;height:auto;background:#0b0d11;cursor:zoom-in}
.view .words{margin:0;padding:6px 10px;font-size:12.5px;color:var(--soft);overflow-wrap:anywhere}
.view .words:empty{display:none}
.strip{display:flex;gap:8px;overflow-x:auto;padding:0 0 10px}
.strip .view{flex:0 0 92px;border-width:2px;border-radius:9px}
.strip .view svg{width:88px;height:88px;object-fit:contain}
.strip .words{padding:2px 6px;font-size:11.5px;text-align:center;white-space:nowrap;overflow:hidden;
text-overflow:ellipsis}
.view.query{border-color:var(--c0);margin-right:10px}.strip .right{border-color:var(--right)}
.strip .wrong{border-color:var(--wrong)}.strip .right .words{color:var(--right)}.strip .wrong .words{color:var(--wrong)}
.box rect{fill:none;stroke-width:2;vector-effect:non-scaling-stroke}
.box:hover rect{stroke-width:3.5}
.box.said rect{stroke:#56b4e9}.box.truth rect{stroke:#fff;stroke-dasharray:5 3;stroke-width:1.6}
.box.wrong rect{stroke:#ff7a33}.box.missed rect{stroke:#f0e442;stroke-dasharray:7 4;stroke-width:2.6}
.view text{fill:#fff;font-weight:600;paint-order:stroke;stroke:#0b0d11cc;stroke-width:.3em;stroke-linejoin:round;
pointer-events:none}
.view text.wrong{fill:#ffb088}.view text.missed{fill:#f0e442}
.tools{display:flex;flex-wrap:wrap;gap:8px 22px;align-items:center;margin:4px 0 14px;font-size:13px;color:var(--soft)}
.tools label{display:inline-flex;gap:8px;align-items:center}
input[type=range]{accent-color:var(--c0);width:150px}input[type=checkbox]{accent-color:var(--c0)}
output{font-variant-numeric:tabular-nums;color:var(--ink);min-width:2.4em}
.swatch{width:14px;height:10px;border:2px solid #56b4e9;display:inline-block;margin-right:6px;border-radius:2px}
.swatch.truth{border:2px dashed var(--soft)}.swatch.wrong{border-color:#ff7a33}.swatch.missed{border:2px dashed #d4b106}
.hide-truth .truth,.low{display:none}
dialog{border:0;padding:0;background:none;max-width:96vw;max-height:96vh;width:min(96vw,1000px)}
dialog::backdrop{background:#000c}
dialog svg{display:block;width:100%;max-height:88vh;background:#0b0d11;border-radius:12px;cursor:zoom-out}
dialog p{color:#fff;margin:8px 4px;text-align:center}
footer{color:var(--soft);font-size:13px;padding:6px 4px}
@media (max-width:640px){main{padding:14px 12px 40px}section{padding:18px 14px;border-radius:12px}h1{font-size:23px}
.tiles{grid-template-columns:repeat(auto-fit,minmax(96px,1fr));gap:8px}.tile{padding:9px 12px}.tile b{font-size:18px}
.tick{font-size:12.5px}nav div{padding:0 8px}.sorts th,.sorts td{padding-left:14px}.barred{min-width:128px}
.barred .bar{width:64px}.card p{min-height:0}.sorts tbody th{max-width:150px}
.sorts th:first-child,.cross th[scope=row]{position:sticky;left:0;background:var(--card)}
.wide .cells{grid-template-columns:1fr 1fr;gap:10px}
summary .stack{margin-left:0;max-width:none;flex-basis:100%}}
@media print{:root{color-scheme:light;--ground:#fff;--card:#fff;--ink:#111;--soft:#555;--line:#ccc}
body{font-size:11px}nav,.tools,select,.numbers{display:none!important}
.scroll,.scroll.tall{max-height:none;overflow:visible}
section{border:0;padding:8px 0;break-inside:auto}
figure,.card,.view,.strip,tr{break-inside:avoid}h2,h3{break-after:avoid}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}main{max-width:none;padding:0}}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
"""
)
