/** What this process has needed so far. */
import { readFileSync } from "node:fs"

/** Largest resident memory, in MiB. */
export function peakRssMb(): number {
  return Math.round(10 * (highWaterMb() ?? process.resourceUsage().maxRSS / 1024)) / 10
}

/** Linux's own figure: what getrusage says there begins with the memory of the program that started this one. */
function highWaterMb(): number | undefined {
  try {
    const found = /^VmHWM:\s*(\d+) kB$/m.exec(readFileSync("/proc/self/status", "utf8"))
    return found ? Number(found[1]) / 1024 : undefined
  } catch {
    return undefined
  }
}
