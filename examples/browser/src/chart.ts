/** The loss curve: a line that grows, in the page's colours, with what it shows in words for those who cannot see it. */
import uPlot from "uplot"

export interface Chart {
  /** A line of its own begins: a new run. */
  clear(): void
  add(step: number, loss: number): void
}

const height = 260

export function lossChart(place: HTMLElement): Chart {
  const steps: number[] = []
  const losses: number[] = []
  const color = (name: string): string => getComputedStyle(place).getPropertyValue(name)
  let plot: uPlot | undefined
  const describe = (): void => {
    const [first, last] = [losses[0], losses.at(-1)]
    const words =
      first === undefined || last === undefined
        ? "nothing yet"
        : `${first.toFixed(2)} at step ${steps[0]}, ${last.toFixed(2)} at step ${steps.at(-1)}`
    place.setAttribute("aria-label", `Loss per step; ${words}`)
  }
  const draw = (): void => {
    plot?.destroy()
    const axis = (label: string): uPlot.Axis => ({
      label,
      labelSize: 20,
      size: 44,
      stroke: () => resolved("--quiet"),
      grid: { stroke: () => resolved("--line"), width: 1 },
      ticks: { show: false },
    })
    plot = new uPlot(
      {
        width: place.clientWidth,
        height,
        legend: { show: false },
        cursor: { show: false },
        scales: { x: { time: false }, y: { range: (_, __, max) => [0, Math.max(1, max * 1.05)] } },
        axes: [{ ...axis("step"), size: 36 }, axis("loss")],
        series: [{}, { stroke: () => resolved("--accent"), width: 2, points: { show: false } }],
      },
      [steps, losses],
      place,
    )
    describe()
  }
  // A canvas does not know light-dark(): an element computes it.
  const probe = document.createElement("span")
  probe.hidden = true
  place.after(probe)
  const resolved = (name: string): string => {
    probe.style.color = color(name)
    return getComputedStyle(probe).color
  }
  new ResizeObserver(() => plot?.setSize({ width: place.clientWidth, height })).observe(place)
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot?.redraw())
  draw()
  return {
    clear() {
      steps.length = 0
      losses.length = 0
      plot?.setData([steps, losses])
      describe()
    },
    add(step, loss) {
      steps.push(step)
      losses.push(loss)
      plot?.setData([steps, losses])
      describe()
    },
  }
}
