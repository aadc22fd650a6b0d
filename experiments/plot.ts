/** Line charts and bars as SVG, written by hand: some lines of text and no library. Must not know experiments. */

export interface Line {
  readonly label: string
  readonly points: readonly (readonly [x: number, y: number])[]
  /** Drawn dashed and grey: a level to compare with. */
  readonly level?: true
}

export interface Panel {
  readonly title: string
  readonly x: string
  readonly y: string
  readonly lines: readonly Line[]
  /** Logarithmic in y. */
  readonly log?: true
}

const colours = ["#0b6bcb", "#d1495b", "#2e8b57", "#e08e0b", "#7b4fb5", "#00838f", "#8d6e63", "#555555"]
const [width, height, left, right, top, bottom, key] = [560, 300, 56, 16, 34, 44, 20]

/** The panels one below the other. Lines of one label have one colour in all of them. */
export function lineChart(title: string, panels: readonly Panel[]): string {
  const labels = [...new Set(panels.flatMap(({ lines }) => lines.filter((l) => !l.level).map(({ label }) => label)))]
  const legend = Math.ceil(labels.length / 3) * key
  const each = height + 10
  const whole = 30 + legend + panels.length * each
  const entries = labels.map((label, i) => {
    const [x, y] = [left + (i % 3) * 168, 44 + Math.floor(i / 3) * key]
    const line = `<line x1="${x}" y1="${y}" x2="${x + 22}" y2="${y}" stroke="${colourOf(i)}" stroke-width="2.5"/>`
    return `${line}<text x="${x + 28}" y="${y + 4}">${escaped(label)}</text>`
  })
  const drawn = panels.map(
    (panel, i) => `<g transform="translate(0 ${30 + legend + i * each})">${draw(panel, labels)}</g>`,
  )
  return svg(whole, title, [...entries, ...drawn])
}

function svg(whole: number, title: string, parts: readonly string[]): string {
  const heading = `<text x="${left}" y="22" font-size="15" font-weight="600">${escaped(title)}</text>`
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${whole}" font-family="system-ui, sans-serif" font-size="12" fill="#222">
<title>${escaped(title)}</title>
<rect width="${width}" height="${whole}" fill="#fff"/>
${[heading, ...parts].join("\n")}
</svg>
`
}

function draw({ title, x, y, lines, log }: Panel, labels: readonly string[]): string {
  const all = lines.flatMap(({ points }) => points)
  const scale = (value: number): number => (log ? Math.log10(value) : value)
  const [low, high, parts] = range(
    all.map(([, value]) => scale(value)),
    log,
  )
  const [, last, marks] = range([0, ...all.map(([at]) => at)])
  const [w, h] = [width - left - right, height - top - bottom]
  const px = (at: number): number => round(left + (at / last) * w)
  const py = (value: number): number => round(top + h - ((scale(value) - low) / (high - low)) * h)
  const ticks = Array.from({ length: parts + 1 }, (_, i) => low + ((high - low) * i) / parts)
  const grid = ticks.map((tick) => {
    const at = round(top + h - ((tick - low) / (high - low)) * h)
    const value = log ? 10 ** tick : tick
    return `<line x1="${left}" y1="${at}" x2="${left + w}" y2="${at}" stroke="#ddd"/><text x="${left - 6}" y="${at + 4}" text-anchor="end">${short(value)}</text>`
  })
  const steps = Array.from({ length: marks + 1 }, (_, i) => (last * i) / marks)
  const foot = steps.map((s) => `<text x="${px(s)}" y="${top + h + 16}" text-anchor="middle">${short(s)}</text>`)
  const curves = lines.map(({ label, points, level }) => {
    const path = points.map(([at, value]) => `${px(at)},${py(value)}`).join(" ")
    const style = level ? `stroke="#888" stroke-dasharray="5 4"` : `stroke="${colourOf(labels.indexOf(label))}"`
    const [, end] = points.at(-1) ?? [0, low]
    const note = level
      ? `<text x="${left + w - 4}" y="${py(end) - 5}" text-anchor="end" fill="#666">${escaped(label)}</text>`
      : ""
    const [dot] = points.length === 1 ? points : []
    if (dot) return `<circle cx="${px(dot[0])}" cy="${py(dot[1])}" r="4" fill="${colourOf(labels.indexOf(label))}"/>`
    return `<polyline points="${path}" fill="none" stroke-width="2" ${style}/>${note}`
  })
  return [
    `<text x="${left}" y="20" font-weight="600">${escaped(title)}</text>`,
    ...grid,
    ...foot,
    `<text x="${left + w / 2}" y="${height - 10}" text-anchor="middle">${escaped(x)}</text>`,
    `<text x="14" y="${top + h / 2}" text-anchor="middle" transform="rotate(-90 14 ${top + h / 2})">${escaped(y)}</text>`,
    ...curves,
  ].join("\n")
}

/** Bars in groups: groups[g].values[i] belongs to labels[i]. */
export function barChart(
  title: string,
  labels: readonly string[],
  panels: readonly { title: string; groups: readonly { name: string; values: readonly number[] }[] }[],
): string {
  const rows = panels.map(({ groups }) => groups.length * (labels.length * 9 + 8) + 30)
  const legend = Math.ceil(labels.length / 3) * key
  const whole = 40 + legend + rows.reduce((a, b) => a + b, 0)
  const parts = labels.map((label, i) => {
    const [x, y] = [left + (i % 3) * 168, 44 + Math.floor(i / 3) * key]
    return `<rect x="${x}" y="${y - 8}" width="14" height="9" fill="${colourOf(i)}"/><text x="${x + 20}" y="${y}">${escaped(label)}</text>`
  })
  let y = 46 + legend
  for (const panel of panels) {
    parts.push(`<text x="${left}" y="${y}" font-weight="600">${escaped(panel.title)}</text>`)
    y += 10
    const most = Math.max(...panel.groups.flatMap(({ values }) => values), 1e-9)
    for (const { name, values } of panel.groups) {
      const middle = y + (labels.length * 9) / 2 + 4
      parts.push(`<text x="${left + 54}" y="${middle}" text-anchor="end">${escaped(name)}</text>`)
      values.forEach((value, i) => {
        const length = round((value / most) * (width - left - 130))
        parts.push(
          `<rect x="${left + 60}" y="${y + i * 9}" width="${length}" height="8" fill="${colourOf(i)}"/><text x="${left + 64 + length}" y="${y + i * 9 + 8}" font-size="9">${short(value)}</text>`,
        )
      })
      y += labels.length * 9 + 8
    }
    y += 20
  }
  return svg(whole, title, parts)
}

const colourOf = (i: number): string => colours[i % colours.length] as string
const round = (x: number): number => Math.round(x * 10) / 10
const short = (x: number): string => (Math.abs(x) >= 100 ? x.toFixed(0) : String(Number(x.toPrecision(3))))
const escaped = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;")

/** Ends on round numbers with a few steps between; on a logarithmic scale as they are. */
function range(values: readonly number[], log = false): [low: number, high: number, steps: number] {
  const known = values.filter(Number.isFinite)
  const [low, high] = [Math.min(...known), Math.max(...known)]
  if (log || !(high > low)) return [low - 0.02, high + 0.02, 4]
  const rough = (high - low) / 5
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = power * ([1, 2, 5, 10].find((n) => n * power >= rough) as number)
  const [first, last] = [Math.floor(low / step + 1e-9), Math.ceil(high / step - 1e-9)]
  return [first * step, last * step, last - first]
}
