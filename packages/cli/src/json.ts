/** JSON in and out of the command. */
import { basename, dirname } from "node:path"
import { parseJson } from "@peftjs/core"
import { readText } from "@peftjs/safetensors"
import { nodeFiles } from "@peftjs/safetensors/node"

/** Prints one JSON object and nothing else. */
export function printJson(value: object): void {
  process.stdout.write(`${JSON.stringify(value)}\n`)
}

/** Reads a JSON file. Throws E_FILE_NOT_FOUND, E_READ, E_JSON naming the line. */
export async function readJson(file: string): Promise<unknown> {
  return parseJson(await readText(nodeFiles(dirname(file)), basename(file)), file)
}
