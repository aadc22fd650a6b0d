/** Twenty steps with dropout have the same losses on cpu and webgpu, and a run that one of them began goes on on the other. */
import { join } from "node:path"
import { writeTinyModel } from "../../tiny-model.ts"
import { type Context, finish, startPeft } from "../programs.ts"
import { repository } from "../setup.ts"
import { largestRatio, lossesIn, type Trained } from "./trained.ts"

const steps = 20
const recipe =
  `--method lora --target-modules all-linear --r 4 --alpha 8 --dropout 0.1 --max-steps ${steps} --batch-size 2 ` +
  "--learning-rate 3e-3 --lr-scheduler cosine --warmup-steps 2 --weight-decay 0.01 --seed 11 --save-steps 4"
/** Relative. */
const atMost = 1e-3
const backends = ["cpu", "webgpu"] as const

export async function backendsResume(context: Context): Promise<void> {
  const model = join(context.folder, "model")
  writeTinyModel(model)
  const data = join(repository, "demo", "train.jsonl")
  const train = ["train", "--model", model, "--data", data, ...recipe.split(" ")]
  const run = async (output: string, ...more: string[]): Promise<Trained> =>
    JSON.parse(await context.peft(...train, "--output", output, ...more, "--json"))

  const whole: Record<string, number[]> = {}
  for (const backend of backends) {
    const output = join(context.folder, backend)
    const { seconds, kernels } = await run(output, "--backend", backend)
    whole[backend] = lossesIn(output)
    context.expect(
      `${steps} steps on ${backend}`,
      whole[backend].length === steps,
      `${seconds.toFixed(1)} s, ${kernels}`,
    )
  }
  const apart = largestRatio(whole.webgpu ?? [], whole.cpu ?? [])
  context.expect("both have the same losses", apart < atMost, `${apart.toExponential(1)} apart, allowed ${atMost}`)

  for (const [first, second] of [backends, [...backends].reverse()] as [string, string][]) {
    const name = `begun on ${first}, resumed on ${second}`
    const output = join(context.folder, `${first}-${second}`)
    const child = startPeft([...train, "--output", output, "--backend", first], context.blas)
    const ended = finish(child)
    const at = await stopAfter(child, output, 10)
    const { code } = await ended
    if (code !== 130) {
      context.expect(name, false, `Ctrl-C after step ${at} ended it with ${code}`)
      continue
    }
    const before = lossesIn(output).length
    await run(output, "--resume", output, "--backend", second)
    const ratio = largestRatio(lossesIn(output), whole[first] ?? [])
    context.expect(
      name,
      before < steps && ratio < atMost,
      `stopped after step ${before}, losses of all ${steps} ${ratio.toExponential(1)} from those of an uninterrupted run, allowed ${atMost}`,
    )
  }
}

/** Interrupts the run as soon as its metrics show the step; returns the step they show then. */
async function stopAfter(child: ReturnType<typeof startPeft>, output: string, step: number): Promise<number> {
  const count = (): number => {
    try {
      return lossesIn(output).length
    } catch {
      return 0
    }
  }
  while (child.exitCode === null && count() < step) await new Promise((done) => setTimeout(done, 5))
  child.kill("SIGINT")
  return count()
}
