/** Ctrl-C: the first asks, the second ends the process. Must not know what is running. */

export interface Interrupt {
  /** Aborted by the first SIGINT or SIGTERM. */
  readonly signal: AbortSignal
  /** Gives the signals back to Node. */
  stop(): void
}

/** What a process that was asked to stop ends with. */
export const interruptedExitCode = 130

/** Listens from now on; `asked` is called once, at the first signal. */
export function onInterrupt(asked: () => void): Interrupt {
  const controller = new AbortController()
  const handler = (): void => {
    if (controller.signal.aborted) process.exit(interruptedExitCode)
    controller.abort()
    asked()
  }
  const signals = ["SIGINT", "SIGTERM"] as const
  for (const name of signals) process.on(name, handler)
  return {
    signal: controller.signal,
    stop() {
      for (const name of signals) process.off(name, handler)
    },
  }
}
