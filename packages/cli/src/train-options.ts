/** The options of `peft train`: their names, their checks, and what they are called in the train package. Must not read files. */
import { PeftError } from "@peftjs/core"
import {
  adamw,
  type LossMask,
  lossMasks,
  type Optimizer,
  type ScheduleName,
  type Scheduler,
  sgd,
  type TrainOptions,
} from "@peftjs/train"
import { type Command, Option } from "commander"
import { adapterOptions } from "./adapter-options.ts"
import type { BackendFlags } from "./backend.ts"
import { commonOptions, numeric, pairs, repeated, whole } from "./options.ts"
import { type RestartFlags, restartOf, restartOptions } from "./restart-options.ts"
import { type TeamFlags, teamOptions } from "./team.ts"
import { type MethodFlags, methodDefaults } from "./trainable.ts"
import { loadingAs, loadingOf, type WeightFlags, type WeightType, weightOptions } from "./weights.ts"

/** As typed. */
export interface TrainFlags extends Omit<MethodFlags, "method">, BackendFlags, RestartFlags, WeightFlags, TeamFlags {
  readonly weights?: WeightType
  readonly method?: string
  readonly model?: string
  readonly initConfig?: string
  readonly data?: string
  readonly evalData?: string
  readonly output?: string
  readonly resume?: string
  readonly overwrite?: boolean
  readonly dryRun?: boolean
  readonly maxSteps?: number
  readonly epochs?: number
  readonly batchSize: number
  readonly gradientAccumulationSteps: number
  readonly maxLength: number
  readonly learningRate?: number
  readonly lrScheduler?: string
  readonly lrSchedulerOption?: readonly string[]
  readonly warmupSteps: number
  readonly weightDecay: number
  readonly maxGradNorm: number
  readonly optimizer: "adamw" | "sgd"
  readonly adamBeta1?: number
  readonly adamBeta2?: number
  readonly adamEpsilon?: number
  readonly sgdMomentum?: number
  readonly nesterov?: boolean
  readonly lossMask: LossMask
  readonly promptLossWeight: number
  readonly gradientCheckpointing?: boolean
  readonly shuffle: boolean
  readonly saveSteps: number
  readonly json?: boolean
}

/** LoRA over a base in 4 bits. */
const qlora = "qlora"

/** A cosine that every restart brings down to 0 for its warm-up. */
const jagged = "relora_jagged_cosine"

/** Full fine-tuning moves every weight, and wants smaller steps. */
const learningRates = { adapter: 2e-4, full: 5e-5 }

export function trainOptions(command: Command): Command {
  const { r, alpha, dropout } = methodDefaults
  const own = command
    .option("--model <dir>", "Hugging Face model folder, .gguf file, or ORG/NAME[@REVISION] of the hub")
    .option("--init-config <file>", "config.json of a model to train from random weights, instead of --model")
    .option("--data <file.jsonl>", "rows: messages, prompt + completion, question + answer, text, or input_ids")
    .option("--eval-data <file.jsonl>", "rows to evaluate at the end")
    .option("--output <dir>", "gets adapter/ (or model/), metrics.jsonl and checkpoints/")
    .option("--resume <dir>", "go on with the run in that output folder, given the same other options")
    .option("--overwrite", "replace the run that --output holds")
    .option(
      "--dry-run",
      "only say what would be trained, and how much memory it needs; reads no weights, writes nothing",
    )
    .option(
      "--method <name>",
      "lora, mora, full, qlora (lora with --weights nf4 --double-quant), @peftjs/NAME, another installed package, or a path beginning with ./ or / (default: lora; with --init-config: full)",
    )
    .option("--init-adapter <dir>", "start from this PEFT adapter, a folder or ORG/NAME of the hub")
    .addOption(numeric("--r <n>", `rank (default: ${r})`))
    .addOption(numeric("--alpha <x>", `scale of the adapter (default: ${alpha})`))
    .addOption(numeric("--dropout <p>", `dropout before the adapter (default: ${dropout})`))
    .addOption(
      repeated("--method-option <k=v>", "another option of the method, by its name or PEFT's; several allowed"),
    )
  const base = "store the base's linear layers in nf4, fp4 or int8: quantised while loading, unless the folder is"
  return trainingFlags(adapterOptions(weightOptions(own, "--weights", base)))
}

function trainingFlags(command: Command): Command {
  const own = command
    .addOption(whole("--max-steps <n>", "optimizer steps; stands before --epochs", { min: 1 }))
    .addOption(numeric("--epochs <x>", "passes over the data (default: 1)"))
    .addOption(whole("--batch-size <n>", "rows per forward pass", { min: 1 }).default(4))
    .addOption(whole("--gradient-accumulation-steps <n>", "forward passes per optimizer step", { min: 1 }).default(1))
    .addOption(whole("--max-length <n>", "tokens kept of each row", { min: 2 }).default(256))
    .addOption(
      numeric(
        "--learning-rate <x>",
        `(default: the method's, else ${learningRates.adapter}; full: ${learningRates.full})`,
        { min: 0 },
      ),
    )
    .option("--lr-scheduler <name>", `a schedule of transformers (default: linear; with restarts: ${jagged})`)
    .addOption(
      repeated("--lr-scheduler-option <k=v>", "what only that schedule knows: min_lr_rate=0.1; several allowed"),
    )
    .addOption(whole("--warmup-steps <n>", "steps until the learning rate is reached", { min: 0 }).default(0))
    .addOption(numeric("--weight-decay <x>", "not for biases and norms", { min: 0 }).default(0))
    .addOption(numeric("--max-grad-norm <x>", "gradients are scaled down to it; 0: never", { min: 0 }).default(1))
    .addOption(
      new Option("--optimizer <name>", "what applies the gradients").choices(["adamw", "sgd"]).default("adamw"),
    )
    .addOption(numeric("--adam-beta1 <x>", "(default: 0.9)"))
    .addOption(numeric("--adam-beta2 <x>", "(default: 0.999)"))
    .addOption(numeric("--adam-epsilon <x>", "(default: 1e-8)"))
    .addOption(numeric("--sgd-momentum <x>", "(default: 0)"))
    .option("--nesterov", "momentum that looks ahead")
    .addOption(new Option("--loss-mask <mode>", "which tokens are learnt").choices(lossMasks).default("completion"))
    .addOption(numeric("--prompt-loss-weight <x>", "weight of the other tokens", { min: 0, max: 1 }).default(0))
    .option("--gradient-checkpointing", "keep only the inputs of blocks: less memory, more time")
    .option("--no-shuffle", "rows in the order of the file")
    .addOption(whole("--seed <n>", "of initial values, order and dropout", { min: 0 }).default(0))
    .addOption(whole("--save-steps <n>", "steps between checkpoints; 0: only when interrupted", { min: 0 }).default(0))
    .option("--config <file.yaml>", "options written down; the command line wins")
  return commonOptions(restartOptions(teamOptions(own)))
}

/** A random model has to learn everything; one that knows something gets an adapter. */
export function methodOf({ method, initConfig }: Pick<TrainFlags, "method" | "initConfig">): string {
  if (method === qlora) return "lora"
  return method ?? (initConfig === undefined ? "lora" : "full")
}

/** How the base's linear layers are to be stored, where that is said. Throws E_OPTION. */
export function baseLoading(
  flags: WeightFlags & Pick<TrainFlags, "method" | "weights">,
): ReturnType<typeof loadingAs> | undefined {
  const { method, weights, doubleQuant } = flags
  if (method === qlora && weights !== "int8")
    return loadingAs(weights ?? "nf4", { ...flags, doubleQuant: doubleQuant ?? true })
  return loadingOf(flags)
}

/** What the train package calls them; `ofMethod`: the learning rate that the method asks for. Throws E_OPTION. */
export function trainingOptions(
  flags: TrainFlags,
  ofMethod?: number,
): TrainOptions & { batchSize: number; gradientAccumulationSteps: number } {
  const { maxSteps, epochs, saveSteps } = flags
  const restart = restartOf(flags, methodOf(flags))
  return {
    ...(restart ? { restart } : {}),
    ...(maxSteps === undefined ? {} : { maxSteps }),
    ...(epochs === undefined ? {} : { epochs }),
    ...(saveSteps === 0 ? {} : { saveSteps }),
    batchSize: flags.batchSize,
    gradientAccumulationSteps: flags.gradientAccumulationSteps,
    maxLength: flags.maxLength,
    optimizer: optimizerOf(flags, ofMethod),
    scheduler: schedulerOf(flags),
    warmupSteps: flags.warmupSteps,
    maxGradNorm: flags.maxGradNorm,
    lossMask: flags.lossMask,
    promptLossWeight: flags.promptLossWeight,
    gradientCheckpointing: flags.gradientCheckpointing ?? false,
    shuffle: flags.shuffle,
    seed: flags.seed,
  }
}

function optimizerOf(flags: TrainFlags, ofMethod: number = learningRates.adapter): Optimizer {
  const { weightDecay } = flags
  // What a method asks for is meant for AdamW.
  const ofAdapter = flags.optimizer === "adamw" ? ofMethod : learningRates.adapter
  const learningRate = flags.learningRate ?? (methodOf(flags) === "full" ? learningRates.full : ofAdapter)
  const own = {
    adamw: defined({ adamBeta1: flags.adamBeta1, adamBeta2: flags.adamBeta2, adamEpsilon: flags.adamEpsilon }),
    sgd: defined({ sgdMomentum: flags.sgdMomentum, nesterov: flags.nesterov }),
  }
  const [foreign] = Object.keys(flags.optimizer === "sgd" ? own.adamw : own.sgd)
  if (foreign !== undefined) {
    const flag = foreign.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)
    throw new PeftError(
      "E_OPTION",
      `[cli] --${flag} means nothing to --optimizer ${flags.optimizer}; leave one of them out`,
    )
  }
  if (flags.optimizer === "sgd") {
    const { sgdMomentum: momentum, nesterov } = flags
    return sgd({ learningRate, weightDecay, ...defined({ momentum, nesterov }) })
  }
  const { adamBeta1: beta1, adamBeta2: beta2, adamEpsilon: epsilon } = flags
  return adamw({ learningRate, weightDecay, ...defined({ beta1, beta2, epsilon }) })
}

/** Names are checked where schedules are. */
function schedulerOf({ lrScheduler, lrSchedulerOption = [], restartEvery }: TrainFlags): Scheduler {
  const name = (lrScheduler ?? (restartEvery === undefined ? "linear" : jagged)) as ScheduleName
  const camel = (key: string): string => key.replace(/[_-]([a-z])/g, (_, c: string) => c.toUpperCase())
  const given = Object.entries(pairs("--lr-scheduler-option", lrSchedulerOption))
  return { name, ...Object.fromEntries(given.map(([key, value]) => [camel(key), value])) }
}

function defined<T extends object>(values: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as never
}
