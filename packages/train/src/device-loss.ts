/**
 * What is left of a run whose device vanishes, or has no memory left: a copy of its state on the host, and an error that says how to go on.
 * The device's own values are not to be trusted then, even where they can still be read: an update may have been half done. Must not know
 * how checkpoints are written.
 */
import { isPeftError, PeftError } from "@peftjs/core"
import type { Position, StateTensor } from "./checkpoint.ts"

/** The state of a run after a step, on the host. */
export interface HostCopy {
  readonly position: Position
  readonly tensors: readonly StateTensor[]
}

/** Copies that are under way together: far fewer waits for the device, and little memory for those that are. */
const together = 64

/** Throws what reading throws. */
export async function copyToHost(position: Position, tensors: readonly StateTensor[]): Promise<HostCopy> {
  const copies: StateTensor[] = []
  for (let i = 0; i < tensors.length; i += together) {
    const some = tensors.slice(i, i + together).map(async ([name, tensor]): Promise<StateTensor> => {
      const values = await tensor.data()
      return [name, { shape: tensor.shape, data: async () => values }]
    })
    copies.push(...(await Promise.all(some)))
  }
  return { position, tensors: copies }
}

const codes = ["E_DEVICE_LOST", "E_OUT_OF_MEMORY", "E_KERNEL"]

/** Whether the device is to blame, so that nothing it holds can be relied on. */
export function isDeviceError(error: unknown): error is Error & { code: string } {
  return isPeftError(error) && codes.includes(error.code)
}

export interface Stopped {
  /** Optimizer steps done. */
  readonly step: number
  /** That of the last checkpoint. */
  readonly saved: number | undefined
  /** A later one. */
  readonly copy: HostCopy | undefined
  write(copy: HostCopy): Promise<void>
}

/** Writes the copy and returns the error that ends the run: the same code, with where it stopped and which checkpoint there is. */
export async function stoppedBy(cause: Error & { code: string }, stopped: Stopped): Promise<PeftError> {
  const { step, saved, copy, write } = stopped
  const { kept, lost } = copy ? await written(copy, saved, write) : { kept: saved, lost: "" }
  const what = cause.message.replace(/^\[[\w-]+\] /, "").replace(` (${cause.code})`, "")
  const how =
    kept === undefined
      ? "there is no checkpoint, so start again"
      : `the checkpoint of step ${kept} is kept: continue with --resume (the option resume)`
  return new PeftError(cause.code, `[train] ${what}; training stops after step ${step}; ${lost}${how}`, { cause })
}

async function written(
  copy: HostCopy,
  saved: number | undefined,
  write: Stopped["write"],
): Promise<{ kept: number | undefined; lost: string }> {
  const { step } = copy.position
  try {
    await write(copy)
    return { kept: step, lost: "" }
  } catch (error) {
    return { kept: saved, lost: `that of step ${step} could not be written: ${(error as Error).message}; ` }
  }
}
