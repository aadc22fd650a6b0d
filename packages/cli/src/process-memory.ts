/** What this process has needed so far. */

/** Largest resident memory, in MiB. */
export function peakRssMb(): number {
  return Math.round(process.resourceUsage().maxRSS / 102.4) / 10
}
