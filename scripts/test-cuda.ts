/**
 * `npm run test:cuda`: everything that a person with an NVIDIA GPU can find out about the CUDA backend with one command, as a JSON report to send
 * back: the conformance kit, a training whose losses must be the CPU backend's, and the speed and memory of training steps beside the CPU's.
 *
 *   --device gpu|gpu:1|cpu   cpu rehearses it where there is no GPU
 *   --model DIR              a Hugging Face model folder (default: the small model of demo/)
 *   --report FILE            default out/cuda-report.json
 */
import { spawnSync } from "node:child_process"
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { createRequire } from "node:module"
import { dirname, join, resolve } from "node:path"
import { parseArgs } from "node:util"
import { type CudaDevice, cuda } from "@peftjs/backend-cuda/node"
import { adapt } from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { loadCausalLM } from "@peftjs/models/node"
import { jsonl, train } from "@peftjs/train"

const root = join(import.meta.dirname, "..")
const { device, model, report } = parseArgs({
  options: {
    device: { type: "string", default: "gpu" },
    model: { type: "string", default: join(root, "demo", "model") },
    report: { type: "string", default: join(root, "out", "cuda-report.json") },
  },
}).values
/** Relative, of each step's loss. */
const atMost = 1e-3
const count = { passed: 0, failed: 0 }

function expect(what: string, ok: boolean, figures: string): void {
  count[ok ? "passed" : "failed"]++
  console.log(`${ok ? "ok  " : "FAIL"} ${what}: ${figures}`)
}

/** Runs a program of this repository and gives its stdout; what it says goes on to stderr. */
function run(program: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): { ok: boolean; stdout: string } {
  const options = { cwd: root, encoding: "utf8", maxBuffer: 1 << 28, env: { ...process.env, ...env } } as const
  const { status, stdout } = spawnSync(process.execPath, [program, ...args], {
    ...options,
    stdio: ["ignore", "pipe", "inherit"],
  })
  return { ok: status === 0, stdout }
}

const peft = <T>(...args: string[]): T => {
  const { ok, stdout } = run(join(root, "packages/cli/bin/peft.js"), [...args, "--json"])
  if (!ok) throw new Error(`peft ${args.join(" ")} failed`)
  return JSON.parse(stdout) as T
}

function conformance(): { passed: number; failed: number } {
  const vitest = join(
    dirname(createRequire(join(root, "tests/package.json")).resolve("vitest/package.json")),
    "vitest.mjs",
  )
  const kept = join(root, "out", "cuda-conformance.json")
  mkdirSync(dirname(kept), { recursive: true })
  rmSync(kept, { force: true })
  const args = [
    "run",
    "test/conformance.test.ts",
    "--testNamePattern",
    "cuda",
    "--project=!chromium",
    "--reporter=json",
    `--outputFile=${kept}`,
  ]
  run(vitest, args, { PEFT_CUDA_DEVICE: device, REQUIRE_BACKENDS: "cuda" })
  type Result = { numPassedTests: number; numFailedTests: number; testResults: { status: string }[] }
  const { numPassedTests, numFailedTests, testResults } = JSON.parse(readFileSync(kept, "utf8")) as Result
  const broken = testResults.filter(({ status }) => status !== "passed").length
  return { passed: numPassedTests, failed: Math.max(numFailedTests, broken) }
}

interface Trained {
  readonly losses: readonly number[]
  readonly seconds: number
  readonly kernels: string
}

/** Twenty LoRA steps on the demo's rows. */
function training(name: string, ...where: string[]): Trained {
  const output = join(root, "out", `cuda-training-${name}`)
  const recipe = [
    "--max-steps",
    "20",
    "--batch-size",
    "4",
    "--max-length",
    "128",
    "--learning-rate",
    "5e-4",
    "--loss-mask",
    "full",
  ]
  const rows = ["--data", join(root, "demo", "train.jsonl"), "--output", output, "--overwrite"]
  const { seconds, kernels } = peft<Trained>("train", "--model", model, ...rows, ...recipe, ...where)
  const lines = readFileSync(join(output, "metrics.jsonl"), "utf8").trim().split("\n")
  const losses = lines.flatMap((line) => (JSON.parse(line) as { loss?: number }).loss ?? [])
  return { losses, seconds, kernels }
}

const bench = (...where: string[]): object =>
  peft(
    "bench",
    "--model",
    model,
    "--method",
    "lora",
    "--r",
    "8",
    "--batch-size",
    "4",
    "--seq-length",
    "256",
    "--steps",
    "5",
    ...where,
  )

/** What a step asks of TensorFlow, once shapes are known: ops, bytes up and down; and the tensors that are alive after each step. */
async function asked(): Promise<object> {
  const own = await cuda({ device: device as CudaDevice })
  const adapted = adapt(await loadCausalLM(model, { backend: own }), lora({ r: 8, alpha: 16 }), {
    targetModules: "all-linear",
  })
  const rows = Array.from({ length: 16 }, (_, row) => ({
    input_ids: Array.from({ length: 64 }, (_, i) => 1 + ((row + i) % 200)),
  }))
  const seen: ReturnType<typeof own.stats>[] = []
  await train(adapted, jsonl(rows), {
    maxSteps: 6,
    batchSize: 4,
    learningRate: 1e-4,
    onStep: () => void seen.push(own.stats()),
  })
  const [before, after] = [seen[4] as (typeof seen)[number], seen[5] as (typeof seen)[number]]
  return {
    rows: 4,
    tokens: 64,
    ops: after.ops - before.ops,
    bytes_up: after.bytesUp - before.bytesUp,
    bytes_down: after.bytesDown - before.bytesDown,
    handles: seen.map(({ handles }) => handles),
  }
}

const backend = await cuda({ device: device as CudaDevice })
console.log(`runs on ${JSON.stringify(backend.info)}`)
const onCuda = ["--backend", "cuda", "--device", device]

const kit = conformance()
expect("the conformance kit", kit.failed === 0 && kit.passed > 0, `${kit.passed} passed, ${kit.failed} failed`)
const [there, here] = [training("cuda", ...onCuda), training("cpu", "--backend", "cpu")]
const apart = Math.max(...here.losses.map((loss, i) => Math.abs((there.losses[i] ?? Number.NaN) / loss - 1)))
expect("20 steps have the CPU's losses", apart < atMost, `${apart.toExponential(1)} apart, allowed ${atMost}`)
const speed = { cuda: bench(...onCuda), cpu: bench("--backend", "cpu") }
const driver = spawnSync("nvidia-smi", ["--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv"], {
  encoding: "utf8",
})
const found = {
  at: new Date().toISOString(),
  node: process.version,
  device,
  info: backend.info,
  driver: driver.stdout?.trim() ?? null,
  conformance: kit,
  training: { cuda: there, cpu: here, apart },
  bench: speed,
  step: await asked(),
  doctor: peft("doctor"),
}
const target = resolve(report)
mkdirSync(dirname(target), { recursive: true })
writeFileSync(target, `${JSON.stringify(found, null, 2)}\n`)
console.log(`report: ${target}`)
console.log(`${count.passed} passed, ${count.failed} failed`)
process.exitCode = count.failed === 0 ? 0 : 1
