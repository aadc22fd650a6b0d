/** `peft doctor`: what this machine has, and what is missing. Ends with 0 whatever it finds. */
import type { Command } from "commander"
import pc from "picocolors"
import { printJson } from "../json.ts"
import { type CpuKernels, type Cuda, type Gpus, type Survey, survey } from "../survey.ts"

export function addDoctor(program: Command): void {
  program
    .command("doctor")
    .description("what this machine has to compute with, and what is missing")
    .option("--json", "print one JSON object on stdout and nothing else")
    .option("--debug", "show the stack of an error (also PEFT_DEBUG=1)")
    .action((flags) => runDoctor(flags, program.version() ?? ""))
}

async function runDoctor(flags: { readonly json?: boolean }, version: string): Promise<void> {
  const seen = await survey(version)
  if (flags.json) printJson(seen)
  else process.stdout.write(`${describe(seen)}\n`)
}

const mb = (size: number): string => `${Math.round(size).toLocaleString("en")} MB`

function describe({ peft, node, platform, processor, memory, cpu, webgpu, cuda, auto, models }: Survey): string {
  const blas = "problem" in cpu.blas ? cpu.blas.problem : kernels("BLAS", cpu.blas)
  const wasm = "problem" in cpu.wasm ? cpu.wasm.problem : kernels("WebAssembly", cpu.wasm)
  const lines: [string, string[]][] = [
    ["peft", [`${peft}, Node ${node}, ${platform}`]],
    ["processor", [`${processor.model}, ${processor.threads} threads`]],
    ["memory", [`${mb(memory.total_mb)}, ${mb(memory.free_mb)} free`]],
    ["cpu", [blas, wasm, ...(cpu.faster === undefined ? [] : [pc.yellow(cpu.faster)])]],
    ["webgpu", gpus(webgpu)],
    ["cuda", onCuda(cuda)],
    ["auto", [`${auto.backend}: ${auto.why}`]],
    ["models", [`${models.models} in ${models.cache}${models.free_mb === null ? "" : `, ${mb(models.free_mb)} free`}`]],
  ]
  return lines.flatMap(([name, texts]) => texts.map((t, i) => `${(i === 0 ? name : "").padEnd(11)}${t}`)).join("\n")
}

function kernels(name: string, { library, core, threads, relaxedSimd, gflops }: CpuKernels): string {
  const details = [core, threads && `${threads} threads`, library, relaxedSimd && "relaxed SIMD"].filter(Boolean)
  return [name, ...details, `${gflops} GFLOPS`].join(", ")
}

function gpus({ adapters, missing, self_test: test }: Gpus): string[] {
  const lines = adapters.flatMap(({ vendor, architecture, description, software, features, limits }) => [
    [description || vendor, architecture, software && "a driver that computes on the CPU"].filter(Boolean).join(", "),
    `features: ${features.join(", ") || "none of those that help"}`,
    ...Object.entries(limits).map(([name, value]) => `${name}: ${value.toLocaleString("en")}`),
  ])
  return [...lines, ...(missing === undefined ? [] : [pc.yellow(missing)]), ...tested(test)]
}

function onCuda({ runs, missing, self_test: test }: Cuda): string[] {
  const lines = runs
    ? [where(runs), `TensorFlow ${runs.tensorflow}${builtFor(runs)}, ${runs.runtime}, ${runs.library}`]
    : []
  return [...lines, ...(missing === undefined ? [] : [pc.yellow(missing)]), ...tested(test)]
}

type Runs = NonNullable<Cuda["runs"]>

function where({ device, gpu, memory }: Runs): string {
  if (device === "CPU") return "on the CPU: only for tests, with --device cpu"
  return [gpu ?? "a GPU without a name", device, memory && mb(memory / 2 ** 20)].filter(Boolean).join(", ")
}

function builtFor({ cuda, cudnn }: Runs): string {
  return cuda === undefined ? " without CUDA" : ` with CUDA ${cuda} and cuDNN ${cudnn}`
}

function tested(test: Gpus["self_test"]): string[] {
  if (test === undefined) return []
  return [test === "passed" ? pc.green("self-test passed") : pc.red(`self-test: ${test.problem}`)]
}
