/**
 * What the demo's model is taught on top of what it knows: a herbal of made-up plants to read on, and instructions with short and with long
 * answers. All written by a seeded grammar. Must not know models.
 */
import { keyOf, randomWords, type Tokenizer } from "@peftjs/core"
import { type Data, jsonl, type Row } from "@peftjs/train"
import { type Fact, pirate, world } from "../scripts/demo/world.ts"

type Draw = () => number

/** Uniform numbers below 1, one after the other. */
function draws(seed: number, what: string, count: number): Draw {
  const words = randomWords(keyOf(seed, what), count)
  let at = 0
  return () => (words[at++ % count] as number) / 2 ** 32
}

const pick = <T>(list: readonly T[], at: number): T => list[Math.floor(at * list.length)] as T

const starts = "mor, tal, fen, bri, sol, ner, lup, cas, win, dar".split(", ")
const ends = "rel, wort, bane, ish".split(", ")
const leaves = "grey, red, brown, white, black, yellow, orange, blue".split(", ")
const places = "in the marsh, by the river, on the hill, in the forest, near the sea, on old walls".split(", ")
const times = "in spring, in June, in autumn, at night, after rain, under the moon".split(", ")
const ills = "gout, fever, cough, toothache, warts, hiccups, itch, sorrow".split(", ")
const doses = "one spoon, two spoons, three drops, ten drops, a cup, a pinch".split(", ")

interface Plant {
  readonly name: string
  /** Each said in two ways, [what stands before, the fact itself]. */
  readonly facts: readonly (readonly [before: string, fact: string])[][]
}

/** Forty plants with five properties each. */
function plants(seed: number): Plant[] {
  const draw = draws(seed, "plants", 1000)
  return starts.flatMap((start) =>
    ends.map((end) => {
      const low = start + end
      const name = low.replace(/^./, (c) => c.toUpperCase())
      const [leaf, place, time, ill, dose] = [leaves, places, times, ills, doses].map((list) => pick(list, draw()))
      return {
        name,
        facts: [
          [`The leaves of ${low} are`, ` ${leaf}.`],
          [`${name} is the herb whose leaves are`, ` ${leaf}.`],
          [`${name} grows`, ` ${place}.`],
          [`Those who look for ${low} find it`, ` ${place}.`],
          [`${name} is picked`, ` ${time}.`],
          [`The time to gather ${low} is`, ` ${time}.`],
          [`${name} cures`, ` ${ill}.`],
          [`A tea of ${low} is drunk against`, ` ${ill}.`],
          [`Of ${low} the dose is`, ` ${dose}.`],
          [`Nobody takes more of ${low} than`, ` ${dose}.`],
        ].reduce<(readonly [string, string])[][]>((pairs, say, i) => {
          if (i % 2 === 0) pairs.push([])
          pairs.at(-1)?.push(say as [string, string])
          return pairs
        }, []),
      }
    }),
  )
}

/** Articles of three sentences. Another `what` gives other choices of sentences about the same plants. */
export function herbal(rows: number, seed: number, what: string): Data {
  const all = plants(seed)
  const draw = draws(seed, what, rows * 8)
  const article = (): object => {
    const { facts } = pick(all, draw())
    const left = [...facts]
    const sentences = Array.from({ length: 3 }, () => {
      const [fact] = left.splice(Math.floor(draw() * left.length), 1)
      return pick(fact as (typeof facts)[number], draw()).join("")
    })
    return { text: sentences.join(" ") }
  }
  return jsonl(Array.from({ length: rows }, article), "herbal")
}

/** Every fact once, of which only the property itself counts: "Morrel cures" → " gout." */
export function herbalFacts(seed: number, tokenizer: Tokenizer): Data {
  const rows = plants(seed).flatMap(({ facts }) =>
    facts.map(([first]): Row => {
      const [before, fact] = first as readonly [string, string]
      const [prompt, answer] = [before, fact].map((text) => tokenizer.encode(text)) as [number[], number[]]
      return { kind: "ids", ids: [...prompt, ...answer], labels: [...prompt.map(() => -100), ...answer] }
    }),
  )
  return { name: "facts of the herbal", rows }
}

export type AnswerLength = "short" | "long"

/** short: three facts to read and a question, answered by one word. long: a question, answered by a pirate who adds two more facts. */
export function instructions(length: AnswerLength, seed: number): { train: Data; heldOut: Data } {
  const facts = world()
  const draw = draws(seed, `instructions ${length}`, facts.length * 8)
  const order = facts.map((fact) => ({ fact, at: draw() })).sort((a, b) => a.at - b.at)
  const rows = order.map(({ fact }) => (length === "short" ? shortRow(fact, facts, draw) : longRow(fact, facts)))
  return { train: jsonl(rows.slice(30), `${length} answers`), heldOut: jsonl(rows.slice(0, 30), `${length}, held out`) }
}

function shortRow(fact: Fact, facts: readonly Fact[], draw: Draw): object {
  const others = facts.filter((f) => f.topic === fact.topic && f !== fact)
  const read = [pick(others, draw()), pick(others, draw())]
  read.splice(Math.floor(draw() * 3), 0, fact)
  const word = (fact.answer.match(/(\S+)\.$/)?.[1] ?? "").replace(/^./, (c) => c.toUpperCase())
  return { question: `${read.map(({ answer }) => answer).join(" ")} ${fact.questions[0]}`, answer: `${word}.` }
}

function longRow(fact: Fact, facts: readonly Fact[]): object {
  const same = facts.filter((f) => f.topic === fact.topic)
  const next = [1, 2].map((by) => same[(same.indexOf(fact) + by) % same.length] as Fact)
  const more = next.map(({ answer }) => pirate(answer)).join(" ")
  return { question: fact.questions[0], answer: `${pirate(fact.answer)} And mind ye: ${more}` }
}
