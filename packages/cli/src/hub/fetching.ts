/** How a download looks on stderr: one line that changes on a terminal, one at the start and the end of a file elsewhere. */
import pc from "picocolors"

export interface Fetching {
  progress(bytes: number): void
  end(): void
}

const quietMs = 200

export function showFetching(
  label: string,
  total: number,
  stream: { write(text: string): unknown; readonly isTTY?: boolean } = process.stderr,
  now: () => number = () => performance.now(),
): Fetching {
  const live = stream.isTTY === true
  const began = now()
  let shown = Number.NEGATIVE_INFINITY
  let first: number | undefined
  let done = 0
  const line = (): string => {
    const speed = (done - (first ?? 0)) / Math.max(now() - began, 1) / 1000
    const share = total === 0 ? 100 : Math.floor((100 * done) / total)
    return `${pc.bold(label)}  ${megabytes(done)} of ${megabytes(total)} MB  ${share} %  ${speed.toFixed(1)} MB/s`
  }
  if (!live) stream.write(`fetching ${label} (${megabytes(total)} MB)\n`)
  return {
    progress(bytes) {
      first ??= bytes
      done = bytes
      if (!live || now() - shown < quietMs) return
      shown = now()
      stream.write(`\r\x1b[2K${line()}`)
    },
    end: () => {
      if (live) stream.write(`\r\x1b[2K${line()}\n`)
    },
  }
}

const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1)
