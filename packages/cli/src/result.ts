/** Writing what training has made. Every file is replaced whole, so that there is always the last good one. */
import { rm } from "node:fs/promises"
import { bindModel, type Model, PeftError, trainables } from "@peftjs/core"
import { saveAdapter } from "@peftjs/core/node"
import { saveModel } from "@peftjs/models/node"
import { modelFiles } from "./model-files.ts"
import type { Output } from "./output.ts"
import type { TrainFlags } from "./train-options.ts"

/**
 * A function that writes the result as the view has it after a step, once per step; before the first there is none.
 * It throws E_LOSS_NOT_FINITE, leaving what was written before, when a value is NaN or infinite.
 *
 * @param given the view the run began with, over a base that is there without it
 * @param base the model without the adapter
 * @param folder where the base's tokenizer is
 */
export function makeKeeper(
  given: Model,
  base: Model,
  folder: string,
  flags: TrainFlags,
  output: Output,
): (step: number, model: Model) => Promise<void> {
  let kept = 0
  let written: Model | undefined
  return async (step, model) => {
    if (step === kept) return
    if (!(await allFinite(model))) {
      throw new PeftError(
        "E_LOSS_NOT_FINITE",
        `[cli] parameters are NaN or infinite after step ${step}; nothing was written. Lower the learning rate`,
      )
    }
    await output.prepare()
    if (isFull(model)) await saveModel(model, output.model, { copyFrom: modelFiles(folder) })
    else {
      const moved = model !== given
      // An adapter is worth nothing without the random weights, or those of its cycle, that it sits on.
      if ((moved || flags.initConfig !== undefined) && written !== model) {
        await rm(output.adapter, { recursive: true, force: true })
        await saveModel(moved ? withoutAdapters(model) : base, output.model, { copyFrom: modelFiles(folder) })
        written = model
      }
      await saveAdapter(moved ? named(model, output.model) : model, output.adapter)
    }
    kept = step
  }
}

/** What a run leaves, by the view it ended with. */
export function writtenOf(model: Model, given: Model, output: Output): { adapter?: string; model?: string } {
  if (isFull(model)) return { model: output.model }
  return { ...(model === given ? {} : { model: output.model }), adapter: output.adapter }
}

/** Every parameter is trained: with `--method full`, and before the adapters of a warm start. */
const isFull = ({ view }: Model): boolean => view.adapters.length === 0

const withoutAdapters = ({ definition, view }: Model): Model => bindModel(definition, { ...view, adapters: [] })

/** Adapters name the folder of their base. */
const named = ({ definition, view }: Model, name: string): Model => bindModel({ ...definition, name }, view)

/** Whether everything that is trained is a number. */
export async function allFinite(model: Model): Promise<boolean> {
  for (const { tensor } of trainables(model)) if (!(await tensor.data()).every(Number.isFinite)) return false
  return true
}
