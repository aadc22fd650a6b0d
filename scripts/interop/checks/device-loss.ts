/** A GPU that vanishes in the middle of training ends the run with a checkpoint, from which it goes on, on a new device or on the CPU. */
import { cpSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { type Context, finish, runScript } from "../programs.ts"
import { repository } from "../setup.ts"
import { largestRatio, lossesIn } from "./trained.ts"

const steps = 10
const lostAfter = 7
/** Of the copy that is then the newest: every third step. */
const kept = 6
const recipe = `--method lora --target-modules all-linear --r 4 --alpha 8 --max-steps ${steps} --batch-size 2 --learning-rate 3e-3 --seed 7`
/** Relative. */
const atMost = 1e-3

export async function deviceLoss(context: Context): Promise<void> {
  const demo = join(repository, "demo")
  const [model, data] = [join(demo, "model"), join(demo, "train.jsonl")]
  const train = ["train", "--model", model, "--data", data, ...recipe.split(" ")]
  const whole = join(context.folder, "whole")
  await context.peft(...train, "--output", whole, "--backend", "webgpu")

  const output = join(context.folder, "lost")
  const { code, stdout, stderr } = await finish(
    runScript("lose-device.ts", [model, data, output, `${steps}`, `${lostAfter}`]),
  )
  const error = code === 0 ? (JSON.parse(stdout) as { code: string; message: string }) : undefined
  context.expect("the run ends with E_DEVICE_LOST", error?.code === "E_DEVICE_LOST", error?.message ?? stderr.trim())
  context.expect(
    "and says where it stopped and how to go on",
    error?.message.includes(
      `after step ${lostAfter}; the checkpoint of step ${kept} is kept: continue with --resume`,
    ) === true,
  )
  const latest = JSON.parse(readFileSync(join(output, "checkpoints", "latest.json"), "utf8")) as { step: number }
  context.expect("its checkpoint is there", latest.step === kept, `step ${latest.step}`)

  const expected = lossesIn(whole)
  for (const backend of ["webgpu", "cpu"]) {
    const again = join(context.folder, `on-${backend}`)
    cpSync(output, again, { recursive: true })
    await context.peft(...train, "--output", again, "--resume", again, "--backend", backend)
    const losses = lossesIn(again)
    const ratio = largestRatio(losses, expected)
    const equal = losses.every((loss, i) => loss === expected[i])
    context.expect(
      `resumed on ${backend}, it has the losses of a run that lost nothing`,
      ratio < atMost && (backend === "cpu" || equal),
      `${losses.length} steps, ${equal ? "bit-equal" : `${ratio.toExponential(1)} apart, allowed ${atMost}`}`,
    )
  }
}
