/** How a training run looks on stderr: one line that changes on a terminal, a line now and then elsewhere. Must not know training. */
import type { StepMetrics } from "@peftjs/train"
import pc from "picocolors"

export interface Progress {
  step(metrics: StepMetrics): void
  /** A remark of its own line, above the changing one. */
  say(text: string): void
  /** Leaves the last line standing. */
  end(): void
}

/** Between two lines where nothing can be overwritten. */
const quietMs = 10_000
/** Weight of the newest step in the averages that speed and remaining time come from. */
const newest = 0.2

/**
 * @param total optimizer steps of the whole run
 * @param now a clock in milliseconds
 */
export function makeProgress(
  total: number,
  stream: { write(text: string): unknown; readonly isTTY?: boolean } = process.stderr,
  now: () => number = () => performance.now(),
): Progress {
  const live = stream.isTTY === true
  let last = now()
  let printed = Number.NEGATIVE_INFINITY
  let [seconds, tokens] = [0, 0]
  let line = ""
  const show = (): unknown => stream.write(live ? `\r\x1b[2K${line}` : `${line}\n`)
  return {
    step(metrics) {
      const at = now()
      const share = seconds === 0 ? 1 : newest
      seconds += share * ((at - last) / 1000 - seconds)
      tokens += share * (metrics.input_tokens - tokens)
      last = at
      line = [
        `${pc.bold(`step ${metrics.step}/${total}`)}`,
        `loss ${pc.green(metrics.loss.toFixed(4))}`,
        `lr ${metrics.learning_rate.toExponential(2)}`,
        `${Math.round(tokens / Math.max(seconds, 1e-9))} tokens/s`,
        `ETA ${duration((total - metrics.step) * seconds)}`,
      ].join("  ")
      if (!live && at - printed < quietMs && metrics.step !== total) return
      printed = at
      show()
    },
    say(text) {
      stream.write(live && line ? `\r\x1b[2K${text}\n${line}` : `${text}\n`)
    },
    end() {
      if (live && line) stream.write("\n")
      line = ""
    },
  }
}

/** For work that is counted: "layer 12/210", changing on a terminal, a line now and then elsewhere. */
export function makeCounter(
  what: string,
  stream: { write(text: string): unknown; readonly isTTY?: boolean } = process.stderr,
  now: () => number = () => performance.now(),
): { done(count: number, of: number): void; end(): void } {
  const live = stream.isTTY === true
  let printed = now()
  let line = ""
  return {
    done(count, of) {
      line = `${what} ${count}/${of}`
      if (!live && now() - printed < quietMs) return
      printed = now()
      stream.write(live ? `\r\x1b[2K${line}` : `${line}\n`)
    },
    end() {
      if (live && line) stream.write("\r\x1b[2K")
      line = ""
    },
  }
}

/** "45 s", "3 m 20 s", "2 h 5 m". */
export function duration(seconds: number): string {
  const s = Math.round(seconds)
  if (s < 60) return `${s} s`
  if (s < 3600) return `${Math.floor(s / 60)} m ${s % 60} s`
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} m`
}
