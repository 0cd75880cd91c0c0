"""The style sheet of the report: light and dark by the reader's preference, figures on white in both."""

from __future__ import annotations

CSS = """
:root {
  --page: #f5f6f8; --card: #ffffff; --text: #1c2127; --muted: #57606a; --line: #d8dde3; --soft: #eef1f4;
  --good: #0b6b4b; --good-bg: #d9f2e6; --bad: #9a2c00; --bad-bg: #fde3d6; --open: #7a5200; --open-bg: #fdf0cf;
  --accent: #0a5c94;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --card: #1e2329; --text: #e8ebee; --muted: #a3adb8; --line: #38414b; --soft: #272d35;
    --good: #8be0bd; --good-bg: #12392b; --bad: #ffb596; --bad-bg: #47200f; --open: #f2cf7e; --open-bg: #40310b;
    --accent: #7fc1ef;
  }
  figure, .key svg { filter: invert(.9) hue-rotate(180deg); }
  main figure { border-color: #d0d0d0; }
}
* { box-sizing: border-box; }
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
.verdict { border-left: 5px solid var(--accent); font-size: 16px; }
.verdict.bad { border-left-color: var(--bad); }
.verdict.good { border-left-color: var(--good); }
.verdict.open { border-left-color: var(--open); }
.verdict p:last-child { margin-bottom: 0; }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin: 16px 0 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.tile .name { color: var(--muted); font-size: 13px; }
.tile .value { font-size: 22px; font-weight: 600; font-variant-numeric: tabular-nums; white-space: nowrap; }
.tile .note { color: var(--muted); font-size: 12px; }
.badge { display: inline-block; border-radius: 999px; padding: 1px 10px; font-size: 13px; font-weight: 600;
  white-space: nowrap; background: var(--soft); color: var(--text); }
.badge.good { background: var(--good-bg); color: var(--good); }
.badge.bad { background: var(--bad-bg); color: var(--bad); }
.badge.open { background: var(--open-bg); color: var(--open); }
.key { display: flex; flex-wrap: wrap; gap: 6px 22px; font-size: 13px; color: var(--muted); margin: 0 0 12px; }
.key span { display: inline-flex; align-items: center; gap: 7px; }
.key svg { flex: none; background: #fff; border-radius: 3px; }
.curves { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 14px; }
figure { margin: 0; background: #fff; color: #1c2127; border: 1px solid var(--line); border-radius: 10px;
  padding: 12px 14px 8px; break-inside: avoid; }
figcaption { display: flex; flex-wrap: wrap; gap: 0 10px; align-items: baseline; font-size: 14px; font-weight: 600; }
figcaption small { font-size: 12px; font-weight: 400; color: #57606a; }
figcaption .note { flex-basis: 100%; }
figcaption i { display: inline-block; width: 18px; height: 0; margin-right: 5px; vertical-align: middle;
  border-top: 3px solid; }
figure svg { display: block; width: 100%; height: auto; margin-top: 2px; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif !important; }
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
  .tile .value { font-size: 18px; white-space: normal; overflow-wrap: anywhere; }
  dl.facts, ol.line li { grid-template-columns: minmax(0, 1fr); gap: 0 12px; }
  dl.facts dd { margin-bottom: 6px; }
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
