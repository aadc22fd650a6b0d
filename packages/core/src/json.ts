/**
 * JSON whose errors name the line. Engines leave out the place of most errors, so it is found here;
 * knows nothing of what the JSON means.
 */
import { PeftError } from "./errors.ts"

/** JSON.parse for a file that people edit. Throws E_JSON naming file, line and column. */
export function parseJson(text: string, file: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    const lines = text.slice(0, errorOffset(text)).split("\n")
    const place = `line ${lines.length}, column ${(lines.at(-1) as string).length + 1}`
    const reason = (cause as Error).message.replaceAll(/\s+/g, " ")
    throw new PeftError("E_JSON", `[core] ${file}, ${place}: ${reason}`, { cause })
  }
}

const space = /[ \t\r\n]*/y
const string = /"(?:[^"\\\p{Cc}]|\\(?:["\\/bfnrt]|u[\da-fA-F]{4}))*"/uy
const literal = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/y

/** Where `text` stops being JSON. */
function errorOffset(text: string): number {
  let at = 0
  const take = (pattern: RegExp): boolean => {
    pattern.lastIndex = at
    const found = pattern.test(text)
    if (found) at = pattern.lastIndex
    return found
  }
  const mark = (c: string): boolean => {
    take(space)
    const found = text[at] === c
    if (found) at++
    return found
  }
  const items = (close: string, item: () => boolean): boolean => {
    if (mark(close)) return true
    while (item()) {
      if (mark(close)) return true
      if (!mark(",")) return false
    }
    return false
  }
  const member = (): boolean => take(space) && take(string) && mark(":") && value()
  const value = (): boolean => {
    if (mark("{")) return items("}", member)
    if (mark("[")) return items("]", value)
    return take(string) || take(literal)
  }
  if (value()) take(space)
  return at
}
