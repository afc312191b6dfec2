# SPDX-License-Identifier: Apache-2.0
"""How the page looks, in light and in dark."""

from typing import Final

STYLE: Final = """
:root{--ground:#f6f7f9;--card:#fff;--ink:#1b2330;--soft:#667085;--line:#e4e7ec;--accent:#3b6ef5;--accent2:#f59f3b;
--bad:#d92d20;--warn:#b54708;--good:#067647;--pos:#2f9e64;--neg:#b8c0cc;--emp:#4aa8b8;--ign:#f0b429;--unl:#e9ecf1}
@media (prefers-color-scheme:dark){:root{--ground:#12151b;--card:#1a1f28;--ink:#e6e9ef;--soft:#98a2b3;--line:#2b313c;
--accent:#6f97ff;--bad:#f97066;--warn:#fdb022;--good:#47cd89;--neg:#4a5362;--unl:#262c36}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:14px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 20px 60px}
header{display:flex;gap:16px;align-items:center;flex-wrap:wrap;margin-bottom:18px}
h1{font-size:24px;margin:0;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:17px;margin:0 0 12px}
h3{font-size:14px;margin:20px 0 10px}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px 20px;margin-bottom:18px}
.soft{color:var(--soft);font-weight:400}
.verdict{padding:4px 12px;border-radius:999px;font-weight:600;color:#fff}
.verdict.good{background:#067647}.verdict.bad{background:#c4281c}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(110px,1fr));gap:12px;background:none;border:0;padding:0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:12px 16px}
.tile b{display:block;font-size:22px;letter-spacing:-.02em}.tile span{color:var(--soft)}
.tile.errors b{color:var(--bad)}.tile.warnings b{color:var(--warn)}
details{border-top:1px solid var(--line);padding:8px 0}
summary{cursor:pointer;display:flex;gap:10px;align-items:baseline;flex-wrap:wrap;list-style:none}
summary::before{content:"›";color:var(--soft);width:8px}
details[open]>summary::before{content:"⌄"}
summary .stack{flex:1 1 160px;max-width:340px;margin-left:auto}
.badge{border-radius:6px;padding:0 8px;font-size:12px;font-weight:600;color:#fff}
.badge.error{background:#c4281c}.badge.warning{background:#b54708}.badge.note{background:#667085}
code{font:12px ui-monospace,monospace;overflow-wrap:anywhere;color:var(--soft)}
table{border-collapse:collapse}
.lines{width:100%;margin-top:8px}
.lines td,.lines th{padding:3px 14px 3px 0;text-align:left;vertical-align:top;border-top:1px solid var(--line);
font:12px/1.5 ui-monospace,monospace;overflow-wrap:anywhere}
.lines td:first-child,.lines td:nth-child(2){white-space:nowrap;width:1%}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(250px,1fr));gap:12px}
figure{margin:0}
.gallery figure{background:var(--ground);border:1px solid var(--line);border-radius:10px;overflow:hidden;display:flex;
flex-direction:column}
.gallery figure.faulty{border:2px solid var(--bad)}
.gallery svg{display:block;width:100%;height:190px;background:#0b0d11;flex:none}
.gallery figcaption{padding:6px 10px;font-size:12px;color:var(--soft);overflow-wrap:anywhere}
.gallery figcaption b{color:var(--ink);font-weight:600}
.box rect{fill:hsl(var(--hue) 90% 60%/.08);stroke:hsl(var(--hue) 90% 60%);stroke-width:1.6;
vector-effect:non-scaling-stroke}
.box text{fill:#fff;font-weight:600;paint-order:stroke;stroke:hsl(var(--hue) 75% 26%);stroke-width:.28em;
stroke-linejoin:round}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:16px;margin-top:16px}
.charts figcaption{font-weight:600;font-size:13px}
.charts svg{width:100%;height:auto}
.bar{fill:var(--accent)}.bar:hover{fill:var(--accent2)}
.axis{stroke:var(--line)}.tick{fill:var(--soft);font-size:11px}
.scroll{overflow:auto;max-height:560px}
.balance{width:100%}
.balance th{font-weight:500;text-align:right;padding:1px 12px 1px 0;white-space:nowrap;width:1%}
.bars{padding:2px 0}.bars i{display:block;height:6px;border-radius:3px;min-width:1px;margin:1px 0}
.side-train{background:var(--accent)}.side-val{background:var(--accent2)}
.num{padding-left:12px;color:var(--soft);white-space:nowrap;width:1%;text-align:right;font-variant-numeric:tabular-nums}
.key{display:inline-block;width:10px;height:10px;border-radius:3px;margin:0 5px 0 8px}
.heat{font-size:11px;font-variant-numeric:tabular-nums}
.heat th{font-weight:500;text-align:right;padding:0 8px;white-space:nowrap}
.heat tr:first-child th{height:96px;vertical-align:bottom;padding:0;position:relative;min-width:30px}
.heat tr:first-child th span{position:absolute;bottom:4px;left:14px;transform:rotate(-55deg);transform-origin:0 100%}
.heat td{width:34px;min-width:30px;height:24px;text-align:center;border:1px solid var(--card);
background:rgb(59 110 245/calc(var(--share,0)*.9))}
.heat td.own{background:var(--unl);color:var(--soft)}
.heat tr:first-child td{background:none}
.stack{display:flex;height:12px;border-radius:6px;overflow:hidden;background:var(--unl);min-width:160px}
.stack i{display:block}
.states{width:100%;margin-top:6px}
.states th{font-weight:500;text-align:right;padding:2px 12px 2px 0;white-space:nowrap;width:1%}
.state-positive{background:var(--pos)}.state-negative{background:var(--neg)}.state-empty{background:var(--emp)}
.state-ignore{background:var(--ign)}
.state-unlabelled{background:repeating-linear-gradient(45deg,var(--unl) 0 4px,var(--line) 4px 8px)}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(340px,1fr));gap:14px}
.pairs figure{display:grid;grid-template-columns:1fr 1fr;gap:6px}
.pairs img{width:100%;height:120px;object-fit:contain;background:#0b0d11;border-radius:8px;display:block}
.pairs span,.pairs figcaption{font-size:12px;color:var(--soft);overflow-wrap:anywhere}
.pairs figcaption{grid-column:1/3}
"""
