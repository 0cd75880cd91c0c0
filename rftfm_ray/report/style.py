"""The style sheet of the report: light and dark by the reader's preference, figures included."""

from __future__ import annotations

THEME = """
:root {
  --page: #f5f6f8; --card: #ffffff; --text: #1c2127; --muted: #57606a; --line: #d8dde3; --soft: #eef1f4;
  --good: #0b6b4b; --good-bg: #d9f2e6; --bad: #9a2c00; --bad-bg: #fde3d6; --open: #7a5200; --open-bg: #fdf0cf;
  --accent: #0a5c94;
  --blue: #0072b2; --vermilion: #d55e00; --green: #00795a; --ink: #1c2127; --grey: #626b75; --span: #f6d99b;
  --edge: #9aa2ab; --grid: #e6e9ec; --tick: #57606a; --incident: #6b4a00; --on-green: #ffffff;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --card: #1e2329; --text: #e8ebee; --muted: #a3adb8; --line: #38414b; --soft: #272d35;
    --good: #8be0bd; --good-bg: #12392b; --bad: #ffb596; --bad-bg: #47200f; --open: #f2cf7e; --open-bg: #40310b;
    --accent: #7fc1ef;
    --blue: #56b4e9; --vermilion: #ff8f4d; --green: #45cfa3; --ink: #e8ebee; --grey: #9aa5b1; --span: #7a5c14;
    --edge: #5d6872; --grid: #323a43; --tick: #a3adb8; --incident: #f5d68a; --on-green: #0c1a15;
  }
}
"""
"""Colours by the reader's preference; a figure beside a page has them too."""

CSS = (
    THEME
    + """* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 40px 0 12px; }
h3 { font-size: 16px; margin: 0; }
h4 { font-size: 13px; margin: 20px 0 6px; color: var(--muted); text-transform: uppercase; letter-spacing: .04em; }
p { margin: 0 0 10px; }
code, pre { font: 13px/1.45 ui-monospace, "SF Mono", Menlo, "Liberation Mono", Consolas, monospace; }
.head { display: flex; flex-wrap: wrap; gap: 8px 14px; align-items: center; margin-bottom: 14px; }
.about { display: flex; flex-wrap: wrap; gap: 4px 28px; color: var(--muted); font-size: 14px; margin: 0 0 20px; }
.about b { color: var(--text); font-weight: 600; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px; }
.card + .card { margin-top: 16px; }
.headline { font-size: 18px; line-height: 1.4; font-weight: 600; margin: 0 0 14px; overflow-wrap: anywhere; }
.headline.bad { color: var(--bad); }
.headline.open { color: var(--open); }
.verdict { overflow-wrap: anywhere; border-left: 5px solid var(--accent); font-size: 16px; }
.verdict.bad { border-left-color: var(--bad); }
.verdict.good { border-left-color: var(--good); }
.verdict.open { border-left-color: var(--open); }
.verdict p:last-child { margin-bottom: 0; }
.verdict + p { margin-top: 12px; }
.tiles { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 12px; margin: 16px 0 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.tile .name { color: var(--muted); font-size: 13px; }
.tile .value { font-size: 22px; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.tile .note { color: var(--muted); font-size: 12px; }
.badge { display: inline-block; border-radius: 999px; padding: 1px 10px; font-size: 13px; font-weight: 600;
  white-space: nowrap; background: var(--soft); color: var(--text); }
.badge.good { background: var(--good-bg); color: var(--good); }
.badge.bad { background: var(--bad-bg); color: var(--bad); }
.badge.open { background: var(--open-bg); color: var(--open); }
.key { display: flex; flex-wrap: wrap; gap: 6px 22px; font-size: 13px; color: var(--muted); margin: 0 0 12px; }
.key span { display: inline-flex; align-items: center; gap: 7px; }
.key svg { flex: none; }
.curves { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 14px; }
.card .curves { margin-top: 8px; }
figure { margin: 0; background: var(--card); color: var(--text); border: 1px solid var(--line); border-radius: 10px;
  padding: 12px 14px 8px; break-inside: avoid; }
figcaption { display: flex; flex-wrap: wrap; gap: 0 10px; align-items: baseline; font-size: 14px; font-weight: 600; }
figcaption small { font-size: 12px; font-weight: 400; color: var(--muted); }
figcaption .note { flex-basis: 100%; }
figcaption i { display: inline-block; width: 18px; height: 0; margin-right: 5px; vertical-align: middle;
  border-top: 3px solid; }
figure svg { display: block; width: 100%; height: auto; margin-top: 2px; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif !important; }
figure .narrow { display: none; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; vertical-align: top; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); }
th { color: var(--muted); font-weight: 600; font-size: 13px; white-space: nowrap; }
tr:last-child td { border-bottom: 0; }
td { overflow-wrap: anywhere; }
table.journal td:nth-child(-n+4), table.short td:not(:last-child) { white-space: nowrap; overflow-wrap: normal; }
.muted { color: var(--muted); }
dl.facts { display: grid; grid-template-columns: 150px minmax(0, 1fr); gap: 6px 16px; margin: 0; }
dl.facts dt { color: var(--muted); }
dl.facts dd { margin: 0; overflow-wrap: anywhere; }
.shares { display: grid; gap: 4px; }
.share { display: grid; grid-template-columns: 86px 130px 46px minmax(0, 1fr); gap: 0 12px; align-items: center; }
.bar { height: 10px; border-radius: 5px; background: var(--soft); overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--accent); }
.percent { text-align: right; font-variant-numeric: tabular-nums; }
ul { margin: 0; padding-left: 18px; }
ol.line { list-style: none; margin: 0; padding: 0; border-left: 2px solid var(--line); }
ol.line li { position: relative; display: grid; grid-template-columns: 140px minmax(0, 1fr); gap: 12px;
  padding: 3px 0 3px 16px; overflow-wrap: anywhere; }
ol.line li::before { content: ""; position: absolute; left: -6px; top: 10px; width: 10px; height: 10px;
  border-radius: 50%; background: var(--accent); border: 2px solid var(--card); }
ol.line .when { color: var(--muted); font-variant-numeric: tabular-nums; }
.remediation { background: var(--soft); border-radius: 8px; padding: 12px 16px; margin-top: 10px; break-inside: avoid; }
.remediation h3 { margin-bottom: 8px; font-size: 15px; display: flex; flex-wrap: wrap; gap: 6px 10px; }
summary { cursor: pointer; font-weight: 600; }
details[open] > summary { margin-bottom: 12px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); border-radius: 8px; padding: 10px 12px;
  margin: 6px 0 0; }
footer { margin-top: 36px; color: var(--muted); font-size: 13px; overflow-wrap: anywhere; }
@media (max-width: 800px) {
  .curves { grid-template-columns: minmax(0, 1fr); }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  dl.facts, ol.line li { grid-template-columns: minmax(0, 1fr); gap: 0 12px; }
  dl.facts dd { margin-bottom: 6px; }
  .share { grid-template-columns: 86px minmax(0, 1fr) 46px; }
  .share .muted { grid-column: 1 / -1; }
}
@media screen and (max-width: 600px) {
  main { padding: 20px 14px 48px; }
  .tile { padding: 10px 12px; }
  .tile .value { font-size: 18px; }
  figure { padding: 10px 8px 6px; }
  .curves figure svg text { font-size: 9.5px !important; }
  figure .wide { display: none; }
  figure .narrow { display: block; }
  /* Rows are stacked, each cell behind its heading: the last column would be off the screen. */
  thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
  table, tbody, tr, td { display: block; }
  tr { padding: 8px 0; border-bottom: 1px solid var(--line); }
  tr:last-child { border-bottom: 0; }
  td, table.journal td:nth-child(-n+4) { display: grid; grid-template-columns: 96px minmax(0, 1fr); gap: 10px;
    padding: 2px 0; border: 0; white-space: normal; }
  td::before { content: attr(data-label); color: var(--muted); font-size: 13px; }
  td > * { justify-self: start; }
}
@media print {
  body { font-size: 11px; }
  main { max-width: none; padding: 0; }
  .tile, .card, figure { break-inside: avoid; }
  .card.long { break-inside: auto; }
  h2, h3, h4 { break-after: avoid; }
  details::details-content { content-visibility: visible; display: block; height: auto; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
)
