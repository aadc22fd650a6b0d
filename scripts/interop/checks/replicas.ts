/**
 * Replicas of a training: threads on the real model, and the ranks of an mpirun, of MPICH from a wheel of PyPI and of the system's Open MPI
 * where it is installed, on the model of the repository. They must have the losses of one program; a rank that is killed must end the job
 * and leave a usable checkpoint.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { existsSync, readFileSync } from "node:fs"
import { delimiter, join } from "node:path"
import { type Context, finish } from "../programs.ts"
import { repository } from "../setup.ts"

const bin = join(repository, "packages/cli/bin/peft.js")
const recipe =
  "--method lora --target-modules all-linear --r 4 --alpha 8 --dropout 0.1 --batch-size 4 --gradient-accumulation-steps 2 --learning-rate 1e-3 --seed 5"

export async function replicas(context: Context): Promise<void> {
  const demo = [
    "--model",
    join(repository, "demo/model"),
    "--data",
    join(repository, "demo/train.jsonl"),
    ...recipe.split(" "),
  ]
  const alone = await losses(context, [...demo, "--max-steps", "6"], "alone")
  for (const [name, launch] of Object.entries(launchers(context))) {
    const output = join(context.folder, name.replaceAll(" ", "-"))
    const run = ["train", ...demo, "--distributed", "mpi", "--output", output]
    const { code, stderr } = await finish(launch([...run, "--max-steps", "6"]))
    const found = code === 0 ? lossesIn(output) : []
    context.expect(
      `two ranks of ${name} have the losses of one program`,
      apart(alone, found) < 1e-5,
      code === 0 ? `${apart(alone, found).toExponential(1)} apart` : `exit ${code}: ${stderr.slice(-300)}`,
    )
    await killed(context, name, launch, demo)
  }
  const real = [
    "--model",
    context.model,
    "--data",
    join(context.shared, "data/gsm8k/train.jsonl"),
    ...recipe.split(" "),
  ]
  const steps = ["--max-steps", "2", "--max-length", "160"]
  const one = await losses(context, [...real, ...steps], "real-alone")
  const two = await losses(context, [...real, ...steps, "--replicas", "2"], "real-two")
  context.expect("two threads on SmolLM2 have the losses of one", apart(one, two) < 1e-5, `${one} and ${two}`)
}

type Launch = (args: readonly string[]) => ChildProcess

/** By what runs them. */
function launchers({ mpich }: Context): Record<string, Launch> {
  const path = `${join(mpich, "bin")}${delimiter}${process.env.PATH}`
  const peft = [process.execPath, bin]
  const launch =
    (program: string, flags: readonly string[], env: NodeJS.ProcessEnv): Launch =>
    (args) =>
      spawn(program, [...flags, "-n", "2", ...peft, ...args], { env: { ...process.env, ...env } })
  const mpiexec = join(mpich, "bin", "mpiexec")
  const system = spawnSync("mpirun.openmpi", ["--version"]).status === 0
  return {
    "MPICH by MPI-5's ABI": launch(mpiexec, [], { PATH: path }),
    "MPICH by its own": launch(mpiexec, [], { PATH: path, PEFT_MPI: join(mpich, "lib", "libmpi.so.12") }),
    ...(system ? { "Open MPI": launch("mpirun.openmpi", ["--allow-run-as-root", "--oversubscribe"], {}) } : {}),
  }
}

async function losses(context: Context, args: readonly string[], name: string): Promise<number[]> {
  const output = join(context.folder, name)
  await context.peft("train", ...args, "--output", output)
  return lossesIn(output)
}

function lossesIn(output: string): number[] {
  const lines = readFileSync(join(output, "metrics.jsonl"), "utf8").trim().split("\n")
  return lines.map((line) => (JSON.parse(line) as { loss: number }).loss)
}

function apart(a: readonly number[], b: readonly number[]): number {
  return a.length === b.length
    ? Math.max(...a.map((x, i) => Math.abs((b[i] as number) / x - 1)))
    : Number.POSITIVE_INFINITY
}

/** Within which a job must have ended. */
const seconds = 30
const long = ["--max-steps", "20", "--save-steps", "2"]

/** Kills rank 1 once there is a checkpoint, and goes on from that one alone. */
async function killed(context: Context, name: string, launch: Launch, demo: readonly string[]): Promise<void> {
  const output = join(context.folder, `${name.replaceAll(" ", "-")}-killed`)
  const child = launch(["train", ...demo, "--distributed", "mpi", "--output", output, ...long])
  const ended = finish(child)
  while (child.exitCode === null && !existsSync(join(output, "checkpoints/step-4")))
    await new Promise((done) => setTimeout(done, 50))
  const ranks = spawnSync("pgrep", ["-f", `${bin} train .*${output}`], { encoding: "utf8" })
    .stdout.trim()
    .split("\n")
    .map(Number)
  const at = performance.now()
  // The launcher has the lowest number of those that name the folder.
  process.kill(ranks.filter((pid) => pid !== child.pid).at(-1) as number, "SIGKILL")
  const { code, signal } = await ended
  const took = (performance.now() - at) / 1000
  context.expect(
    `${name}: a killed rank ends the job, and not well`,
    code !== 0 && took < seconds,
    `exit ${code ?? signal} after ${took.toFixed(1)} s`,
  )
  const { step } = JSON.parse(readFileSync(join(output, "checkpoints/latest.json"), "utf8")) as { step: number }
  await context.peft("train", ...demo, ...long, "--resume", output, "--output", output)
  const found = lossesIn(output)
  context.expect(`${name}: one program goes on from its checkpoint`, found.length === 20, `of step ${step}`)
}
