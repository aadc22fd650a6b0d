/** Writing what training has made. Every file is replaced whole, so that there is always the last good one. */
import { type Model, PeftError, trainables } from "@peftjs/core"
import { saveAdapter } from "@peftjs/core/node"
import { saveModel } from "@peftjs/models/node"
import type { Output } from "./output.ts"
import { methodOf, type TrainFlags } from "./train-options.ts"

/**
 * A function that writes the result as it is after a step, once per step; before the first there is none.
 * It throws E_LOSS_NOT_FINITE, leaving what was written before, when a value is NaN or infinite.
 *
 * @param base the model without the adapter
 * @param folder where the base's tokenizer is
 */
export function makeKeeper(
  model: Model,
  base: Model,
  folder: string,
  flags: TrainFlags,
  output: Output,
): (step: number) => Promise<void> {
  let kept = 0
  let baseWritten = false
  return async (step) => {
    if (step === kept) return
    if (!(await allFinite(model))) {
      throw new PeftError(
        "E_LOSS_NOT_FINITE",
        `[cli] parameters are NaN or infinite after step ${step}; nothing was written. Lower the learning rate`,
      )
    }
    await output.prepare()
    if (methodOf(flags) === "full") await saveModel(model, output.model, { copyFrom: folder })
    else {
      // An adapter on random weights is worth nothing without them.
      if (flags.initConfig !== undefined && !baseWritten) await saveModel(base, output.model, { copyFrom: folder })
      baseWritten = true
      await saveAdapter(model, output.adapter)
    }
    kept = step
  }
}

/** Whether everything that is trained is a number. */
export async function allFinite(model: Model): Promise<boolean> {
  for (const { tensor } of trainables(model)) if (!(await tensor.data()).every(Number.isFinite)) return false
  return true
}
