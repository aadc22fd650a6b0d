/**
 * `peft train --dry-run`: what a run would train, which targets select nothing, and the memory it would need. Weights are not read,
 * nothing is written. Must not know how memory is estimated, or how the report looks.
 */
import { isPeftError, type Model, matchTargets, requireMatches, type Tensor, trainables } from "@peftjs/core"
import { type Data, type Grouping, groupsPerEpoch, planRestarts } from "@peftjs/train"
import { jsonlFile } from "@peftjs/train/node"
import { adaptOptions } from "./adapter-options.ts"
import { makeBackend } from "./backend.ts"
import { baseModel, baseSource, startingAdapter } from "./base-model.ts"
import { estimateMemory, fullBatch, longestBatch, type MemoryEstimate, mebibytes } from "./memory/estimate.ts"
import { headersOnly } from "./memory/headers-only.ts"
import { shapeBackend } from "./memory/shape-backend.ts"
import { withoutWeights } from "./memory/without-weights.ts"
import { threadTeam } from "./team.ts"
import { methodOf, type TrainFlags, trainingOptions } from "./train-options.ts"
import { countParameters, makeTrainable } from "./trainable.ts"

/** The JSON object of `peft train --dry-run`. */
export interface DryRun {
  readonly dry_run: true
  readonly method: string
  readonly trainable: number
  readonly total: number
  /** Percent of `total`. */
  readonly trainable_percent: number
  /** Layers under an adapter; `shape` is [out, in]. */
  readonly sites: readonly { path: string; kind: string; shape: readonly number[]; parameters: number }[]
  /** Parameters of the base that are trained themselves, and rows of them. */
  readonly whole: readonly { path: string; shape: readonly number[]; parameters: number }[]
  /** Targets that select nothing: with them, a run is refused. */
  readonly unmatched: readonly { target: string; hint: string }[]
  /** MiB, and the batch it is for; null where nothing is selected. */
  readonly memory_mb: Omit<MemoryEstimate, "rows" | "tokens"> | null
  readonly batch: { readonly rows: number; readonly tokens: number } | null
  /** Where restarts are asked for; `restarts`: how many, null where neither steps nor data say how long the run is. */
  readonly restart?: {
    readonly every: number
    readonly warmup: number
    readonly optimizer_reset: string
    readonly warm_start_steps: number
    readonly restarts: number | null
  }
}

/** Throws as a run would, except for targets that select nothing. */
export async function dryRun(flags: TrainFlags, warn: (text: string) => void): Promise<DryRun> {
  const options = trainingOptions(flags)
  const data = flags.data === undefined ? undefined : await jsonlFile(flags.data)
  const real = await makeBackend(flags)
  const backend = shapeBackend(real)
  const { through, taken } = withoutWeights(headersOnly)
  const source = await baseSource(flags, "model")
  const base = await baseModel(source, { backend, seed: flags.seed, through })
  const adapter = await startingAdapter(flags)
  const method = methodOf(flags)
  const { targetModules, unmatched } = method === "full" || flags.initAdapter ? asGiven(flags) : known(base, flags)
  const nothing = { dry_run: true, method, unmatched } as const
  if (targetModules === "") {
    const { total } = countParameters(base)
    return { ...nothing, trainable: 0, total, trainable_percent: 0, sites: [], whole: [], memory_mb: null, batch: null }
  }
  const made = { ...flags, ...adapter, method, ...(targetModules === undefined ? {} : { targetModules }) }
  let model: Model = base
  const { rows, tokens, ...parts } = await estimateMemory({
    ...{
      base,
      backend,
      options,
      process: taken(),
      team: threadTeam({ ...flags, trainsBase: method === "full" }, source),
    },
    batch: data ? longestBatch(data, base.tokenizer, options) : fullBatch(options, base.config),
    async attach(observed) {
      model = await makeTrainable(observed, made, warn)
      return model
    },
  })
  const { trainable, total } = countParameters(model)
  return {
    ...nothing,
    trainable,
    total,
    trainable_percent: (100 * trainable) / total,
    ...adapted(model),
    memory_mb: Object.fromEntries(
      Object.entries(parts).map(([part, bytes]) => [part, mebibytes(bytes)]),
    ) as DryRun["memory_mb"],
    batch: { rows, tokens },
    ...(options.restart
      ? { restart: planned(planRestarts(model, options.restart, stepsOf(flags, options, data))) }
      : {}),
  }
}

function planned({
  every,
  warmup,
  optimizer,
  fullSteps,
  restarts,
}: ReturnType<typeof planRestarts>): NonNullable<DryRun["restart"]> {
  const { reset, ratio } = optimizer
  const how = reset === "reset" ? reset : `${reset}:${ratio}`
  return { every, warmup, optimizer_reset: how, warm_start_steps: fullSteps, restarts: restarts ?? null }
}

/** Steps of the run, where they are known. */
function stepsOf({ maxSteps, epochs = 1 }: TrainFlags, grouping: Grouping, data: Data | undefined): number | undefined {
  return maxSteps ?? (data && Math.ceil(epochs * groupsPerEpoch(data.rows.length, grouping)))
}

type Targeted = Pick<DryRun, "unmatched"> & { readonly targetModules: string | undefined }

const asGiven = ({ targetModules }: TrainFlags): Targeted => ({ targetModules, unmatched: [] })

/** The targets that select something, and why the others do not. Throws E_OPTION, E_TARGET, E_REGEX. */
function known(base: Model, flags: TrainFlags): Targeted {
  const targets = adaptOptions(flags)
  const { sites, unmatched } = matchTargets(base, targets)
  const hints = unmatched.map((target) => ({ target, hint: hintOf(base, target) }))
  const { targetModules } = targets
  if (sites.length === 0) return { targetModules: "", unmatched: hints }
  if (typeof targetModules !== "object") return { targetModules: flags.targetModules, unmatched: hints }
  return { targetModules: targetModules.filter((target) => !unmatched.includes(target)).join(","), unmatched: hints }
}

/** What the refusal of a run would say: "did you mean q_proj?". */
function hintOf(base: Model, target: string): string {
  try {
    requireMatches(base, { targetModules: [target] }, { sites: [], unmatched: [target] })
    return ""
  } catch (error) {
    if (!isPeftError(error)) throw error
    return (error as Error).message.replace(/^.*?selects no layer; /, "").replace(/ \(E_TARGET\)$/, "")
  }
}

/** What is trained, by the layer it belongs to. */
function adapted(model: Model): Pick<DryRun, "sites" | "whole"> {
  const owners = new Map<Tensor, string>()
  for (const { sites } of model.view.adapters) {
    for (const [path, { params }] of sites) for (const { value } of Object.values(params)) owners.set(value, path)
  }
  const counts = new Map<string, number>()
  const whole: DryRun["whole"][number][] = []
  for (const { name, tensor } of trainables(model)) {
    const owner = owners.get(tensor)
    if (owner === undefined) whole.push({ path: name, shape: tensor.shape, parameters: tensor.size })
    else counts.set(owner, (counts.get(owner) ?? 0) + tensor.size)
  }
  const sites = [...model.sites.values()].filter(({ path }) => counts.has(path))
  return {
    sites: sites.map(({ path, kind, base }) => ({
      path,
      kind,
      shape: base.shape,
      parameters: counts.get(path) as number,
    })),
    whole,
  }
}
