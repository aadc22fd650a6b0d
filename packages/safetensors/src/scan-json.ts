/**
 * What JSON.parse lets pass and the reference's parser does not: duplicate keys, numbers not written as integers,
 * unpaired surrogates, extreme nesting. One pass over text that is already known to be JSON, so it needs no grammar.
 */

/** Nesting at which the reference's JSON parser gives up (serde_json's recursion limit). */
const maxDepth = 127

const quote = 0x22
const backslash = 0x5c

/**
 * @param text valid JSON
 * @returns the first problem found, as a noun phrase, or undefined
 */
export function scanJson(text: string): string | undefined {
  /** Keys of every open object; null for an open array. */
  const open: (Set<string> | null)[] = []
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i)
    if (c === quote) {
      const start = i
      i = closingQuote(text, i)
      const keys = open.at(-1)
      const raw = text.slice(start, i + 1)
      // A lone surrogate can only be written as an escape: UTF-8 has none.
      const value = raw.includes("\\") ? (JSON.parse(raw) as string) : raw.slice(1, -1)
      if (raw.includes("\\u") && /\p{Surrogate}/u.test(value)) return `an unpaired surrogate in ${raw}`
      if (keys && followedByColon(text, i + 1)) {
        if (keys.has(value)) return `the key ${raw} twice in one object`
        keys.add(value)
      }
    } else if (c === 0x7b || c === 0x5b) {
      open.push(c === 0x7b ? new Set() : null)
      if (open.length > maxDepth) return `more than ${maxDepth} levels of nesting`
    } else if (c === 0x7d || c === 0x5d) open.pop()
    else if (c === 0x2e || ((c === 0x65 || c === 0x45) && isDigit(text.charCodeAt(i - 1))))
      return "a number that is not written as an integer"
  }
  return undefined
}

function closingQuote(text: string, start: number): number {
  let i = start + 1
  for (let c = text.charCodeAt(i); c !== quote; c = text.charCodeAt(i)) i += c === backslash ? 2 : 1
  return i
}

function followedByColon(text: string, from: number): boolean {
  let i = from
  while (text.charCodeAt(i) <= 0x20) i++
  return text.charCodeAt(i) === 0x3a
}

function isDigit(c: number): boolean {
  return c >= 0x30 && c <= 0x39
}
