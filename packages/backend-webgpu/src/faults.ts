/**
 * Errors that a device reports later than the call that caused them. Knows when things were recorded, not what.
 * Every command has a number. A fault spoils what was written from the command that failed up to the moment the program is told; reading any of
 * that fails again later, so that nobody takes what a failed kernel left for a result.
 */
import { PeftError } from "@peftjs/core"

export interface Faults {
  /** Resolves to what every later call throws. */
  readonly lost: Promise<Error>
  readonly isLost: () => boolean
  /** Ends everything: pending waits reject. The first reason stays. */
  lose(reason: string): void
  /** Throws when the device is lost. */
  check(): void
  /** Notes that commands from number `from` on did not run. The first error stays until it is told. */
  note(from: number, error: PeftError): void
  /** A fault nobody was told of. */
  pending(): PeftError | undefined
  /** Throws a fault nobody was told of, once; or the loss. */
  tell(): void
  /** What spoiled the command of that number. */
  spoiled(command: number): PeftError | undefined
  /** The promise, or the loss of the device when that comes first. */
  guard<T>(promise: Promise<T>): Promise<T>
}

/** `next` is the number that the next command will get. */
export function createFaults(next: () => number): Faults {
  const told: { from: number; to: number; error: PeftError }[] = []
  const waiting = new Set<(error: Error) => void>()
  let open: { from: number; error: PeftError } | undefined
  let loss: PeftError | undefined
  let resolveLost: (error: Error) => void
  const lost = new Promise<Error>((resolve) => {
    resolveLost = resolve
  })
  const check = (): void => {
    if (loss) throw loss
  }
  return {
    lost,
    isLost: () => loss !== undefined,
    lose(reason) {
      if (loss) return
      loss = new PeftError(
        "E_DEVICE_LOST",
        `[backend-webgpu] the device is gone: ${reason}; what it held is lost: make a new backend and resume from a checkpoint`,
      )
      resolveLost(loss)
      for (const reject of waiting) reject(loss)
      waiting.clear()
    },
    check,
    note(from, error) {
      open = open ? { from: Math.min(from, open.from), error: open.error } : { from, error }
    },
    pending: () => open?.error,
    tell() {
      check()
      if (!open) return
      const { from, error } = open
      told.push({ from, to: next(), error })
      open = undefined
      throw error
    },
    spoiled(command) {
      if (open && command >= open.from) return open.error
      return told.find(({ from, to }) => command >= from && command < to)?.error
    },
    guard(promise) {
      check()
      // A set that is emptied, and not Promise.race with `lost`, which would remember every wait for as long as the device lives.
      return new Promise((resolve, reject) => {
        waiting.add(reject)
        const settle = (): void => void waiting.delete(reject)
        promise.then(resolve, (error: Error) => {
          // What is unmapped behind our back is unmapped because the device went; its promise comes a moment later.
          if (error?.name === "AbortError") void lost.then(reject)
          else reject(error)
        })
        promise.then(settle, settle)
      })
    },
  }
}
