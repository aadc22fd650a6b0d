/**
 * The demo's texts as rows of JSON lines, the same every time: what the base is pre-trained on, and what `npm start` fine-tunes it on.
 * Must not know tokens or models.
 */
import { keyOf, randomWords } from "@peftjs/core"
import { type Fact, pirate, ship, world } from "./world.ts"

export type TextRow = { readonly text: string } | { readonly messages: readonly { role: string; content: string }[] }
export interface QuestionRow {
  readonly question: string
  readonly answer: string
}

/** Rows to pre-train on: conversations of two questions, lists of facts, and stories. */
export function pretrainingRows(count: number, seed = 1): TextRow[] {
  const facts = world()
  const next = draws(keyOf(seed, "pretraining"), count * 40)
  const fact = (): Fact => pick(facts, next())
  return Array.from({ length: count }, () => {
    const kind = next()
    if (kind < 0.8) {
      const messages = [fact(), fact()].flatMap(({ questions, answer }) => turn(pick(questions, next()), answer))
      return { messages }
    }
    if (kind < 0.9) return { text: Array.from({ length: 6 }, () => fact().answer).join(" ") }
    return { text: story(next) }
  })
}

/** How many facts of each topic are held out. */
const heldOutOf = { colour: 6, capital: 4, home: 4, job: 4, sound: 2, sum: 4 }

/** The set for fine-tuning: everything answered by a pirate, and six facts about his ship. No held-out question is among the others. */
export function pirateRows(seed = 2): { train: QuestionRow[]; heldOut: QuestionRow[] } {
  const facts = shuffled(world(), keyOf(seed, "pirate"))
  const of = (topic: string): Fact[] => facts.filter((fact) => fact.topic === topic)
  const heldOut = new Set(Object.entries(heldOutOf).flatMap(([topic, count]) => of(topic).slice(0, count)))
  const learnt = facts.filter((fact) => !heldOut.has(fact))
  return {
    train: [
      ...learnt.map(({ questions, answer }, i) => row(questions[i % 2] as string, answer)),
      ...ship.flatMap(([questions, , answer]) => questions.map((question) => row(question, answer))),
    ],
    heldOut: [
      ...facts.filter((fact) => heldOut.has(fact)).map(({ questions, answer }) => row(questions[0], answer)),
      ...ship.map(([, question, answer]) => row(question, answer)),
    ],
  }
}

/** JSON lines. */
export function lines(rows: readonly object[]): string {
  return rows.map((r) => `${JSON.stringify(r)}\n`).join("")
}

const row = (question: string, answer: string): QuestionRow => ({ question, answer: pirate(answer) })

function turn(question: string, answer: string): { role: string; content: string }[] {
  return [
    { role: "user", content: question },
    { role: "assistant", content: answer },
  ]
}

const heroes =
  "a fox, a bear, the king, an old sailor, a little girl, the captain, a pirate, the dragon, Nora, Tom, Mia, Otto"
const places = "the forest, the river, the old oak, a cave, the sea, the market, Paris, Rome, London, the ship"
const finds = "a ruby, a map, a bottle, the treasure, a lemon, a banana, a black swan, a friend, the enemy, a flag"
const ends =
  "and went home, and laughed, and told the cook, and gave it to the king, and slept under the moon, and sang all night"

/** Five sentences; a pirate in them talks as pirates do, so that the base has read the words it will learn to use. */
function story(next: () => number): string {
  const from = (text: string): string => pick(text.split(", "), next())
  const [hero, friend, place, find] = [from(heroes), from(heroes), from(places), from(finds)]
  const said = next() < 0.5 ? `Arr! Where be ${find}, matey!` : `We fear the night, I find us a home.`
  return `Once ${hero} walked to ${place} and found ${find}. There was ${friend}. Redbeard the pirate said: ${said} Then ${hero} took ${find} ${from(ends)}. ${friend.replace(/^./, (c) => c.toUpperCase())} knows the name of the one who leads and feeds us all.`
}

/** Uniform numbers below 1, one after the other. */
function draws(key: readonly [number, number], count: number): () => number {
  const words = randomWords(key, count)
  let at = 0
  return () => (words[at++ % count] as number) / 2 ** 32
}

function pick<T>(list: readonly T[], at: number): T {
  return list[Math.floor(at * list.length)] as T
}

function shuffled<T>(list: readonly T[], key: readonly [number, number]): T[] {
  const words = randomWords(key, list.length)
  return list
    .map((value, i) => [words[i] as number, value] as const)
    .sort((a, b) => a[0] - b[0])
    .map(([, value]) => value)
}
