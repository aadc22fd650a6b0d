/** Writing a folder that is there whole or not at all. Must not know what is in it. */
import { existsSync, readdirSync } from "node:fs"
import { mkdir, rename, rm } from "node:fs/promises"
import { dirname } from "node:path"
import { PeftError } from "@peftjs/core"

/**
 * Has a folder written beside its place and then renamed: what fails leaves no trace. `write` returns what is to be said when it is there.
 * Throws E_OUTPUT_EXISTS, before anything is written, where the folder holds something that may not be replaced; and what `write` throws.
 */
export async function replaceFolder(
  folder: string,
  overwrite: boolean,
  write: (unfinished: string) => Promise<() => void>,
): Promise<void> {
  if (existsSync(folder) && readdirSync(folder).length > 0 && !overwrite) {
    throw new PeftError(
      "E_OUTPUT_EXISTS",
      `[cli] ${folder} is not empty; replace it by --overwrite, or give another --output`,
    )
  }
  const unfinished = `${folder}.unfinished-${process.pid}`
  try {
    await mkdir(unfinished, { recursive: true })
    const say = await write(unfinished)
    await mkdir(dirname(folder), { recursive: true })
    await rm(folder, { recursive: true, force: true })
    await rename(unfinished, folder)
    say()
  } finally {
    await rm(unfinished, { recursive: true, force: true })
  }
}
