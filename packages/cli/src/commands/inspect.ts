/**
 * `peft inspect`: what a model folder, an adapter folder, a bare .safetensors or a .gguf file holds, with every byte read once.
 * Fails on anything that would fail, or quietly do harm, when it is used.
 */
import { stat } from "node:fs/promises"
import { basename, dirname, extname } from "node:path"
import { cpu } from "@peftjs/backend-cpu"
import { PeftError } from "@peftjs/core"
import { loadCausalLM, readConfig } from "@peftjs/models"
import { type FileSource, openModel, openSafetensors, type TensorSource } from "@peftjs/safetensors"
import { nodeFile, nodeFiles } from "@peftjs/safetensors/node"
import type { Command } from "commander"
import { inspectAdapter } from "../inspect-adapter.ts"
import { inspectGguf } from "../inspect-gguf.ts"
import { requireFinite, summarise } from "../inspect-tensors.ts"
import { printJson } from "../json.ts"
import { shapeBackend } from "../memory/shape-backend.ts"
import { isGguf } from "../model-files.ts"
import { storedFormats } from "../weights.ts"

export function addInspect(program: Command): void {
  program
    .command("inspect")
    .description("what a model folder, an adapter folder, a .safetensors or .gguf file holds; fails if it is damaged")
    .argument("<path>")
    .option("--json", "print one JSON object on stdout and nothing else")
    .option("--debug", "show the stack of an error (also PEFT_DEBUG=1)")
    .action(runInspect)
}

async function runInspect(path: string, flags: { readonly json?: boolean }): Promise<void> {
  const found = await describe(path)
  if (flags.json) printJson(found)
  else
    process.stdout.write(
      `${Object.entries(found)
        .map(([key, value]) => `${key}: ${text(value)}`)
        .join("\n")}\n`,
    )
}

function text(value: unknown): string {
  if (Array.isArray(value) && value.some((item) => typeof item === "object")) return `${value.length}`
  if (typeof value === "number") return value.toLocaleString("en")
  return typeof value === "string" ? value : JSON.stringify(value)
}

async function describe(path: string): Promise<object> {
  const info = await stat(path).catch((cause) => {
    throw new PeftError("E_FILE_NOT_FOUND", `[cli] cannot inspect ${path}: ${(cause as Error).message}`, { cause })
  })
  if (!info.isDirectory()) return isGguf(path) ? inspectGguf(path) : describeFile(path)
  const files = nodeFiles(path)
  if (await files.has("adapter_config.json")) return inspectAdapter(files)
  if (await files.has("config.json")) return describeModel(files)
  throw new PeftError(
    "E_INSPECT",
    `[cli] ${path} has neither config.json nor adapter_config.json; give a model folder, an adapter folder, a .safetensors or a .gguf file`,
  )
}

async function describeFile(path: string): Promise<object> {
  if (extname(path) === ".json") {
    throw new PeftError(
      "E_INSPECT",
      `[cli] ${basename(path)} is no .safetensors file; give its folder (${dirname(path)})`,
    )
  }
  const source = await openSafetensors(await nodeFile(path))
  await requireFinite(source)
  return { kind: "safetensors", path, ...summarise(source), metadata: source.metadata, tensors: list(source) }
}

async function describeModel(files: FileSource): Promise<object> {
  const { values } = await readConfig(files)
  const source = await openModel(files)
  await requireFinite(source)
  // What packed weights say of themselves is for their formats to judge.
  if (values.quantization_config != null)
    await loadCausalLM(files, { backend: shapeBackend(await cpu()), formats: storedFormats })
  const shards = new Set([...source.tensors.values()].map(({ file }) => file)).size
  return {
    kind: "model",
    path: files.name,
    model_type: values.model_type ?? null,
    architectures: values.architectures ?? null,
    ...summarise(source),
    shards,
    tokenizer: await files.has("tokenizer.json"),
    tensors: list(source),
  }
}

function list({ tensors }: TensorSource): object[] {
  return [...tensors].map(([name, { dtype, shape }]) => ({ name, dtype, shape }))
}
