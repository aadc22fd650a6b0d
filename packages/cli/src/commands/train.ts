/** `peft train`: the order of things in a run, from files to an adapter. The loop itself is the train package's. */
import { adapterOf, configOf, isPeftError } from "@peftjs/core"
import { groupsPerEpoch, planRestarts, type Restarted, type TrainResult, train } from "@peftjs/train"
import { jsonlFile } from "@peftjs/train/node"
import type { Command } from "commander"
import { kernelsOf, makeBackend } from "../backend.ts"
import { type BaseSource, baseModel, baseSource, startingAdapter } from "../base-model.ts"
import { describeDryRun } from "../describe-dry-run.ts"
import { dryRun } from "../dry-run.ts"
import { interruptedExitCode, onInterrupt } from "../interrupt.ts"
import { printJson } from "../json.ts"
import { estimateRun } from "../memory/before-run.ts"
import { describeEstimate } from "../memory/estimate.ts"
import { withoutWeights } from "../memory/without-weights.ts"
import { required } from "../options.ts"
import { type Output, openOutput } from "../output.ts"
import { makeProgress } from "../progress.ts"
import { allFinite, makeKeeper, writtenOf } from "../result.ts"
import { describeSummary, summarise } from "../summary.ts"
import { type Team, teamOf } from "../team.ts"
import { methodOf, type TrainFlags, trainingOptions, trainOptions } from "../train-options.ts"
import { countParameters, makeTrainable, type Sizes } from "../trainable.ts"

export function addTrain(program: Command): void {
  trainOptions(program.command("train").description("fine-tune a model")).action(runTrain)
}

async function runTrain(flags: TrainFlags): Promise<void> {
  const warn = (text: string): unknown => process.stderr.write(`peft: ${text}\n`)
  if (flags.dryRun) {
    const found = await dryRun(flags, warn)
    if (flags.json) printJson(found)
    else process.stdout.write(`${describeDryRun(found)}\n`)
    return
  }
  const output = await openOutput(required(flags.output ?? flags.resume, "--output"), flags)
  // Refused before anything is loaded.
  trainingOptions(flags)
  const source = await baseSource(flags, output.model)
  const asStored = source.loading === undefined && source.initConfig === undefined
  const trainsBase = methodOf(flags) === "full"
  const team = await teamOf(flags, { ...flags, folder: source.folder, asStored, trainsBase })
  try {
    await trainWith(team, { flags, output, source, warn: team.leads ? warn : () => {} })
  } finally {
    await team.stop()
  }
}

interface Job {
  readonly flags: TrainFlags
  readonly output: Output
  readonly source: BaseSource
  readonly warn: (text: string) => unknown
}

async function trainWith(team: Team, { flags, output, source, warn }: Job): Promise<void> {
  const data = await jsonlFile(required(flags.data, "--data"))
  const evalData = flags.evalData === undefined ? undefined : await jsonlFile(flags.evalData)
  const backend = await makeBackend({ ...flags, threads: team.threads })
  const { through, taken } = withoutWeights(team.through)
  const base = await baseModel(source, { backend, seed: flags.seed, through })
  const method = methodOf(flags)
  const making = { ...flags, ...(await startingAdapter(flags)), method }
  const model = await makeTrainable(base, making, warn)
  const options = trainingOptions(flags, method === "full" ? undefined : adapterOf(model).method.learningRate)
  const sizes = countParameters(model)
  // An adapter that cannot be written is an error now, not after training.
  if (method !== "full") configOf(model, adapterOf(model))

  const total = flags.maxSteps ?? Math.ceil((flags.epochs ?? 1) * groupsPerEpoch(data.rows.length, options))
  const restart = options.restart && planRestarts(model, options.restart, total)
  const progress = makeProgress(total, team.leads ? process.stderr : silence)
  const kernels = kernelsOf(backend)
  progress.say(`${introduction(sizes)}, ${data.rows.length} rows, ${total} steps, ${kernels}`)
  const { tokenizer } = base
  const planned = { source, making, backend, data, options, process: taken(), tokenizer, team }
  const needed = team.leads ? await estimateRun(planned) : { problem: "" }
  progress.say("problem" in needed ? `memory not estimated: ${needed.problem}` : describeEstimate(needed))
  if (output.resume) progress.say(`going on after step ${output.from}`)
  else if (flags.resume !== undefined) progress.say("no checkpoint had been written: starting again")

  const keep = team.leads ? makeKeeper(model, base, source.folder, flags, output) : async () => {}
  const interrupt = onInterrupt(() => progress.say("stopping after this micro-batch; Ctrl-C again quits at once"))
  const started = performance.now()
  let done = output.from
  let current = model
  let result: TrainResult
  try {
    result = await train(model, data, {
      ...options,
      ...{ checkpoints: output.checkpoints, resume: output.resume, signal: interrupt.signal },
      communicator: team.join(),
      ...(evalData ? { evalData } : {}),
      async onStep(metrics, view) {
        if (team.leads) await output.record(metrics)
        current = view
        done = metrics.step
        progress.step(metrics)
        // Before the evaluation, which may take long.
        if (done === total) await keep(done, view)
      },
      onSave: keep,
      onRestart(restarted, view) {
        current = view
        progress.say(describeRestart(restarted))
      },
    })
    if (!result.interrupted) await keep(result.steps, result.model)
  } catch (error) {
    // A step that fails is not applied: the model still has the values of the last good one.
    if (done > output.from && isPeftError(error) && error.code === "E_LOSS_NOT_FINITE" && (await allFinite(current))) {
      await keep(done, current)
      progress.say(`kept the values after step ${done}`)
    }
    throw error
  } finally {
    progress.end()
    interrupt.stop()
  }
  if (!team.leads) return
  const seconds = (performance.now() - started) / 1000
  const saved = result.steps > 0 ? writtenOf(result.model, model, output) : {}
  const summary = await summarise({
    result,
    from: output.from,
    seconds,
    sizes,
    kernels,
    metrics: output.metrics,
    saved,
    restart,
    estimated: "problem" in needed ? undefined : needed.total,
  })
  if (flags.json) printJson(summary)
  else process.stdout.write(`${describeSummary(summary)}\n`)
  if (!result.interrupted) return
  process.stderr.write(
    `interrupted after step ${result.steps} of ${total}; to go on, repeat the command with --resume ${flags.output ?? flags.resume}\n`,
  )
  process.exitCode = interruptedExitCode
}

const silence = { write: () => true }

function describeRestart({ cycle, step, sites, maxError }: Restarted): string {
  if (cycle === 0) return `the adapter begins after ${step} steps of full training`
  return `restart ${cycle} after step ${step}: ${sites} layers merged, largest error ${maxError.toExponential(1)}`
}

function introduction({ trainable, total }: Sizes): string {
  const [some, all] = [trainable, total].map((n) => n.toLocaleString("en"))
  return `training ${some} of ${all} parameters (${((100 * trainable) / total).toFixed(2)} %)`
}
