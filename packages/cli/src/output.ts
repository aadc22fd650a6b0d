/**
 * The OUTPUT folder of a training run: what lies where, and when it may be touched.
 * Nothing is made before the first step has succeeded, so that a run that fails to start leaves no trace. Must not know training.
 */
import { existsSync } from "node:fs"
import { copyFile, mkdir, readdir, rm } from "node:fs/promises"
import { basename, join, resolve } from "node:path"
import { PeftError } from "@peftjs/core"
import { type CheckpointStore, latestStep, type StepMetrics } from "@peftjs/train"
import { checkpointFolder, metricsFile } from "@peftjs/train/node"

export interface Output {
  /** PEFT files and nothing else. */
  readonly adapter: string
  /** A whole model: after full fine-tuning, or the random base of `--init-config`. */
  readonly model: string
  readonly metrics: string
  readonly checkpoints: CheckpointStore
  /** The step a resumed run goes on from; 0 where it starts. */
  readonly from: number
  readonly resume: boolean
  /** Clears away what an overwritten run, or the resumed one's later steps, left; the first call alone does anything. */
  prepare(): Promise<void>
  /** Appends to metrics.jsonl, prepared or not. */
  record(metrics: StepMetrics): Promise<void>
}

const parts = { adapter: "adapter", model: "model", metrics: "metrics.jsonl", checkpoints: "checkpoints" }

/**
 * Looks at the folder and touches nothing.
 *
 * @param options resume: the OUTPUT folder of the run to go on with, usually the same
 * @throws E_OUTPUT_EXISTS when it holds a run and neither resume nor overwrite is asked for, E_RESUME when there is nothing to go on from
 */
export async function openOutput(
  dir: string,
  options: { readonly resume?: string | undefined; readonly overwrite?: boolean | undefined },
): Promise<Output> {
  const { resume, overwrite } = options
  const inside = (part: keyof typeof parts, folder = dir): string => join(folder, parts[part])
  const elsewhere = resume !== undefined && resolve(resume) !== resolve(dir) ? resume : undefined
  const present = (Object.keys(parts) as (keyof typeof parts)[]).filter((part) => existsSync(inside(part)))
  if (present.length > 0 && !overwrite && (resume === undefined || elsewhere !== undefined)) {
    throw new PeftError(
      "E_OUTPUT_EXISTS",
      `[cli] ${dir} already holds a run (${present.map((part) => parts[part]).join(", ")}); go on with it by --resume ${dir}, replace it by --overwrite, or give another --output`,
    )
  }
  const own = checkpointFolder(inside("checkpoints"))
  const from = resume === undefined ? undefined : await resumedStep(resume)
  const fresh = from === undefined
  let write: ((metrics: StepMetrics) => Promise<void>) | undefined
  const prepare = async (): Promise<NonNullable<typeof write>> => {
    if (fresh) for (const part of present) await rm(inside(part), { recursive: true, force: true })
    await mkdir(dir, { recursive: true })
    await removeHalfWritten(dir)
    if (elsewhere !== undefined && existsSync(inside("metrics", elsewhere))) {
      await copyFile(inside("metrics", elsewhere), inside("metrics"))
    }
    return metricsFile(inside("metrics"), from ?? 0)
  }
  return {
    adapter: inside("adapter"),
    model: inside("model"),
    metrics: inside("metrics"),
    checkpoints: elsewhere === undefined ? own : layered(own, checkpointFolder(inside("checkpoints", elsewhere))),
    from: from ?? 0,
    resume: !fresh,
    async prepare() {
      write ??= await prepare()
    },
    async record(metrics) {
      write ??= await prepare()
      await write(metrics)
    },
  }
}

/** The step of the last checkpoint; undefined where a run began and was killed before it wrote one. Throws E_RESUME. */
async function resumedStep(dir: string): Promise<number | undefined> {
  const step = await latestStep(checkpointFolder(join(dir, parts.checkpoints)))
  if (step !== undefined) return step
  const began = existsSync(join(dir, parts.metrics))
  const ended = existsSync(join(dir, parts.adapter)) || existsSync(join(dir, parts.model))
  if (began && !ended) return undefined
  throw new PeftError(
    "E_RESUME",
    `[cli] nothing to go on with in ${dir}: it holds no checkpoint${ended ? ", only the result of a run (--save-steps writes checkpoints)" : ""}; start without --resume`,
  )
}

/** A process that is killed while it writes leaves its temporary file behind, which nobody else will take away. */
async function removeHalfWritten(dir: string): Promise<void> {
  for (const path of await readdir(dir, { recursive: true })) {
    if (/^\..+\.[0-9a-f]{12}\.tmp$/.test(basename(path))) await rm(join(dir, path), { force: true })
  }
}

/** Reads what the new folder does not have from the old one; writes go to the new one. */
function layered(own: CheckpointStore, older: CheckpointStore): CheckpointStore {
  return {
    ...own,
    has: async (path) => (await own.has(path)) || older.has(path),
    open: async (path) => ((await own.has(path)) ? own : older).open(path),
  }
}
