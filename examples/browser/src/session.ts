/**
 * The work of the page, as a program in Node would do it: a model, an adapter on it, training, answers, files.
 * Knows neither the page nor that it runs in a worker.
 */
import {
  type Adapter,
  adapt,
  attach,
  type Backend,
  detach,
  isPeftError,
  loadAdapter,
  type Model,
  makeAdapter,
  saveAdapter,
} from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { generateText, type LoadOptions, loadCausalLM } from "@peftjs/models"
import { type FileSource, memoryFiles } from "@peftjs/safetensors"
import { jsonl, latestStep, type StepMetrics, type TrainResult, train } from "@peftjs/train"
import type { Speaker, TrainSettings } from "./messages.ts"

export interface Session {
  readonly base: Model
  /** Trains a new adapter, or goes on with the one there is: from where its run was stopped or its device failed, else with a run of its own. */
  train(rows: string, settings: TrainSettings, options: TrainingOptions): Promise<TrainResult>
  /** Continues the prompt without the adapter, then with it. */
  ask(prompt: string, maxNewTokens: number, onText: (speaker: Speaker, text: string) => void): Promise<void>
  /** The adapter's files, by name, as PEFT spells them. */
  save(): Promise<Readonly<Record<string, Uint8Array>>>
  /** Puts an adapter from files in the place of whatever there is. Says what it is. */
  load(files: FileSource): Promise<string>
}

export interface TrainingOptions {
  readonly goOn: boolean
  readonly signal: AbortSignal
  readonly onStep: (metrics: StepMetrics) => void
}

/** `makeBackend` is called again when the device fails, and the model loaded again as `loading` says. */
export async function openSession(
  files: FileSource,
  makeBackend: () => Promise<Backend>,
  loading: Pick<LoadOptions, "weights" | "formats"> = {},
): Promise<Session> {
  const open = async (): Promise<Model> => loadCausalLM(files, { ...loading, backend: await makeBackend() })
  let base = await open()
  let adapted: Model | undefined
  let lost = false
  /** The run that is not at its end. */
  let unfinished: { checkpoints: ReturnType<typeof memoryFiles>; rows: string; settings: TrainSettings } | undefined
  const replace = (model: Model): void => {
    if (adapted && !lost) detach(adapted)
    adapted = model
    unfinished = undefined
  }
  /** Does what needs the device, on a new one if the last was lost. */
  const work = async <T>(body: () => Promise<T>): Promise<T> => {
    if (lost) {
      base = await open()
      // Its values come from the checkpoint.
      if (adapted) adapted = attach(base, madeAgain(adapted.view.adapters[0] as Adapter, base))
      lost = false
    }
    try {
      return await body()
    } catch (error) {
      lost = ofDevice(error)
      throw error
    }
  }
  return {
    get base() {
      return base
    },
    train: (rows, settings, { goOn, ...options }) =>
      work(async () => {
        if (!goOn || !adapted) {
          const { rank, dropout } = settings
          replace(adapt(base, lora({ r: rank, alpha: 2 * rank, dropout }), { targetModules: "all-linear" }))
        }
        // A run is continued as it was begun: other settings would make it another.
        const run = unfinished ?? { checkpoints: memoryFiles(), rows, settings }
        unfinished = undefined
        const { checkpoints } = run
        const { steps, batchSize, learningRate } = run.settings
        const resume = (await latestStep(checkpoints)) !== undefined
        try {
          const result = await train(adapted as Model, jsonl(run.rows, "the data"), {
            ...{ maxSteps: steps, batchSize, learningRate, warmupSteps: Math.min(5, steps), maxLength: 128 },
            ...{ checkpoints, resume, ...options },
          })
          if (result.interrupted) unfinished = run
          return result
        } catch (error) {
          if (ofDevice(error)) unfinished = run
          throw error
        }
      }),
    ask: (prompt, maxNewTokens, onText) =>
      work(async () => {
        const ids = base.tokenizer?.encode(asked(base, prompt), { addSpecialTokens: false }) ?? []
        const answer = async (model: Model, speaker: Speaker): Promise<void> => {
          await generateText(model, ids, { maxNewTokens, onText: (piece) => onText(speaker, piece) })
        }
        await answer(base, "base")
        if (adapted) await answer(adapted, "adapted")
      }),
    save: () =>
      work(async () => {
        const sink = memoryFiles()
        await saveAdapter(adapted as Model, sink)
        return Object.fromEntries(sink.files)
      }),
    load: (files) =>
      work(async () => {
        const { model, report } = await loadAdapter(base, files, { methods: [lora] })
        replace(model)
        return `${report.peftType} on ${report.sites} layers, ${report.parameters.toLocaleString("en")} parameters`
      }),
  }
}

/** After these nothing that the device holds can be relied on. */
const ofDevice = (error: unknown): boolean =>
  isPeftError(error) && ["E_DEVICE_LOST", "E_OUT_OF_MEMORY", "E_KERNEL"].includes(error.code)

function madeAgain({ name, method, sites, overlayOptions, loaded }: Adapter, base: Model): Adapter {
  const options = { name, seed: 0, overlays: overlayOptions, ...(loaded ? { loaded } : {}) }
  return makeAdapter(base, method, [...sites.keys()], options)
}

/** The prompt as a question, where the model has been taught to answer those. */
function asked({ tokenizer }: Model, prompt: string): string {
  try {
    return tokenizer?.applyChatTemplate([{ role: "user", content: prompt }], { addGenerationPrompt: true }) ?? prompt
  } catch (error) {
    if (isPeftError(error) && error.code === "E_CHAT_TEMPLATE") return prompt
    throw error
  }
}
