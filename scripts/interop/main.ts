/**
 * `npm run test:interop`: the checks that need a real model, real PyTorch and real PEFT. One line per comparison with its
 * figures, then `N passed, N failed`; the exit code is 0 only when nothing failed. With names as arguments only those run.
 */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import useSoftwareVulkan from "../../tests/vulkan.ts"
import { adapterConfigs } from "./checks/adapter-configs.ts"
import { adapterFiles } from "./checks/adapter-files.ts"
import { backendsResume } from "./checks/backends-resume.ts"
import { billion } from "./checks/billion.ts"
import { browserAdapter } from "./checks/browser-adapter.ts"
import { cudaRealModel } from "./checks/cuda-real-model.ts"
import { deviceLoss } from "./checks/device-loss.ts"
import { gguf } from "./checks/gguf.ts"
import { ia3Peft } from "./checks/ia3-peft.ts"
import { killResume } from "./checks/kill-resume.ts"
import { levels } from "./checks/levels.ts"
import { merged } from "./checks/merged.ts"
import { mora } from "./checks/mora.ts"
import { newAdapters } from "./checks/new-adapters.ts"
import { peftTrained } from "./checks/peft-trained.ts"
import { qloraRun } from "./checks/qlora-run.ts"
import { quantised } from "./checks/quantised.ts"
import { realRun } from "./checks/real-run.ts"
import { recordedLogits } from "./checks/recorded-logits.ts"
import { recordedTraining } from "./checks/recorded-training.ts"
import { replicas } from "./checks/replicas.ts"
import { resident } from "./checks/resident.ts"
import { restarts } from "./checks/restarts.ts"
import { roundTrip } from "./checks/round-trip.ts"
import { safetensorsCorpus } from "./checks/safetensors-corpus.ts"
import { tokens } from "./checks/tokens.ts"
import { webgpuRealModel } from "./checks/webgpu-real-model.ts"
import { type Context, runPeft, runPython, writeJson } from "./programs.ts"
import { setUp } from "./setup.ts"

/** Quick ones first, so that a broken tree is known within a minute. */
const checks: Record<string, (context: Context) => Promise<void>> = {
  tokens,
  "recorded-logits": recordedLogits,
  "recorded-training": recordedTraining,
  "safetensors-corpus": safetensorsCorpus,
  "adapter-configs": adapterConfigs,
  "adapter-files": adapterFiles,
  "round-trip": roundTrip,
  "new-adapters": newAdapters,
  "ia3-peft": ia3Peft,
  "browser-adapter": browserAdapter,
  levels,
  resident,
  "kill-resume": killResume,
  restarts,
  "backends-resume": backendsResume,
  "device-loss": deviceLoss,
  "webgpu-real-model": webgpuRealModel,
  "cuda-real-model": cudaRealModel,
  billion,
  "peft-trained": peftTrained,
  merged,
  mora,
  quantised,
  gguf,
  "real-run": realRun,
  "qlora-run": qloraRun,
  replicas,
}

async function main(names: string[]): Promise<number> {
  if (process.env.PEFTJS_INTEROP === "skip") {
    console.log("interop checks left out on request (PEFTJS_INTEROP=skip)")
    return 0
  }
  const unknown = names.filter((name) => !(name in checks))
  if (unknown.length > 0)
    throw new Error(`no check named ${unknown.join(", ")}; there are ${Object.keys(checks).join(", ")}`)
  await useSoftwareVulkan()
  const oracle = await setUp()
  const work = mkdtempSync(join(tmpdir(), "peftjs-interop-"))
  const count = { passed: 0, failed: 0 }
  for (const name of names.length > 0 ? names : Object.keys(checks)) {
    const folder = join(work, name)
    mkdirSync(folder)
    const expect = (what: string, ok: boolean, figures = ""): void => {
      count[ok ? "passed" : "failed"]++
      console.log(`${ok ? "ok  " : "FAIL"} ${name}: ${what}${figures && `: ${figures}`}`)
    }
    const started = performance.now()
    await checks[name]?.({
      ...oracle,
      folder,
      expect,
      peft: (...args) => runPeft(args, oracle.blas),
      python: (script, ...args) => runPython(oracle.python, script, args),
      write: (file, value) => writeJson(folder, file, value),
    }).catch((error: Error) => expect("ran to its end", false, error.message))
    console.log(`     ${name} took ${((performance.now() - started) / 1000).toFixed(0)} s`)
  }
  if (process.env.PEFTJS_KEEP === undefined) rmSync(work, { recursive: true, force: true })
  else console.log(`kept ${work}`)
  console.log(`${count.passed} passed, ${count.failed} failed`)
  return count.failed === 0 && count.passed > 0 ? 0 : 1
}

try {
  process.exitCode = await main(process.argv.slice(2))
} catch (error) {
  console.error(`interop: ${(error as Error).message}`)
  process.exitCode = 1
}
