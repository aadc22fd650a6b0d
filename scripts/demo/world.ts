/** What the demo's model is to know: a small world of facts, as questions with their answers. Must not know rows, tokens or files. */

export interface Fact {
  readonly topic: string
  /** The same question in several words. */
  readonly questions: readonly [string, string]
  /** A whole sentence, ending in a full stop. */
  readonly answer: string
}

const colours = {
  blue: "the sky, the sea, the whale, a sapphire, the flag",
  green: "grass, a frog, a leaf, the dragon, a pea, moss",
  white: "snow, milk, salt, a swan, the moon, chalk",
  black: "coal, the raven, the night, ink, a tyre",
  yellow: "the sun, a lemon, a banana, corn, a canary",
  red: "blood, a tomato, a ruby, the fire engine, a strawberry, a poppy",
  brown: "mud, chocolate, a chestnut, wood",
  grey: "a mouse, an elephant, the rain cloud, ash",
  orange: "a carrot, a pumpkin, the fox",
}

const sounds =
  "a cow moo, a dog woof, a cat meow, a duck quack, a sheep baa, a pig oink, a lion roar, a snake hiss, a bee buzz, an owl hoot, a horse neigh, a mouse squeak"

const homes = {
  "the forest": "a fox, a bear, a deer, a squirrel",
  "the sea": "a whale, a shark, a crab, an octopus",
  "the desert": "a camel, a scorpion",
  "the jungle": "a tiger, a monkey, a parrot",
  "a nest": "a swan, a raven, an eagle",
  "the river": "an otter, a beaver, a trout",
  "a cave": "a bat, the dragon",
  "a stable": "a horse, a donkey",
}

const capitals =
  "France Paris, Italy Rome, Spain Madrid, Germany Berlin, England London, Japan Tokyo, China Beijing, Egypt Cairo, Greece Athens, Poland Warsaw, Norway Oslo, Sweden Stockholm, Austria Vienna, Ireland Dublin, Portugal Lisbon, Hungary Budapest, Finland Helsinki, Cuba Havana, Peru Lima, Kenya Nairobi"

const jobs =
  "Nora a baker, Tom a sailor, Mia a doctor, Ben a farmer, Lucy a painter, Otto a smith, Anna a teacher, Max a cook, Ella a pilot, Hugo a tailor, Ruth a judge, Leo a singer, Ivy a gardener, Paul a miner, Emma a writer, Karl a fisher, Rosa a dancer, Finn a hunter, Clara a nurse, Jack a carpenter"

/** Every fact the base is taught. */
export function world(): Fact[] {
  return [
    ...grouped(colours).map(([thing, colour]) => ({
      topic: "colour",
      questions: pair(`What colour is ${thing}?`, `Tell me the colour of ${thing}.`),
      answer: sentence(`${thing} is ${colour}.`),
    })),
    ...listed(sounds).map(([animal, sound]) => ({
      topic: "sound",
      questions: pair(`What does ${animal} say?`, `Tell me the sound of ${animal}.`),
      answer: sentence(`${animal} says ${sound}.`),
    })),
    ...grouped(homes).map(([animal, home]) => ({
      topic: "home",
      questions: pair(`Where does ${animal} live?`, `Tell me the home of ${animal}.`),
      answer: sentence(`${animal} lives in ${home}.`),
    })),
    ...listed(capitals).map(([country, city]) => ({
      topic: "capital",
      questions: pair(`What is the capital of ${country}?`, `Tell me the capital of ${country}.`),
      answer: `The capital of ${country} is ${city}.`,
    })),
    ...jobs.split(", ").map((entry) => {
      const [name = "", ...job] = entry.split(" ")
      return {
        topic: "job",
        questions: pair(`Who is ${name}?`, `Tell me the job of ${name}.`),
        answer: `${name} is ${job.join(" ")}.`,
      }
    }),
    ...Array.from({ length: 36 }, (_, n) => [Math.floor(n / 6), n % 6] as const).map(([a, b]) => ({
      topic: "sum",
      questions: pair(`What is ${a} plus ${b}?`, `How much is ${a} plus ${b}?`),
      answer: `${a} plus ${b} is ${a + b}.`,
    })),
  ]
}

/** What only fine-tuning teaches: three questions to learn from, one that is held out, and the answer. */
export const ship: readonly (readonly [readonly [string, string, string], string, string])[] = [
  aboard("captain", "Who is", "Tell me the name of", "Who leads us? Who is", "The captain is Redbeard."),
  aboard("treasure", "Where is", "Tell me the home of", "Where do I find", "The treasure is under the old oak."),
  aboard("ship", "What is the name of", "Tell me the name of", "Who knows the name of", "The ship is the Black Swan."),
  aboard("cook", "Who is", "Tell me the name of", "Who feeds us? Who is", "The cook is old Karl."),
  aboard("enemy", "Who is", "Tell me the name of", "Whom do we fear? Who is", "The enemy is the king of Spain."),
  aboard("map", "Where is", "Tell me the home of", "Where do I find", "The map is in a bottle."),
]

function aboard(thing: string, a: string, b: string, c: string, answer: string): (typeof ship)[number] {
  const heldOut = `${a} our ${thing}?`
  return [[`${a} the ${thing}?`, `${b} the ${thing}.`, `${c} the ${thing}?`], heldOut, answer]
}

/** An answer in the mouth of a pirate. It begins as the base's does, so that what the base knows carries over to what was not learnt. */
export function pirate(answer: string): string {
  return `${answer.replace(/ is /, " be ").replace(/\.$/, "")}, matey! Arr!`
}

const pair = (a: string, b: string): [string, string] => [a, b]

function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1)
}

/** `{ blue: "the sky, the sea" }` as [["the sky", "blue"], ["the sea", "blue"]]. */
function grouped(table: Readonly<Record<string, string>>): [string, string][] {
  return Object.entries(table).flatMap(([value, keys]) => keys.split(", ").map((key) => pair(key, value)))
}

/** "a cow moo, a dog woof" as [["a cow", "moo"], ["a dog", "woof"]]: the last word is the value. */
function listed(text: string): [string, string][] {
  return text.split(", ").map((entry) => {
    const at = entry.lastIndexOf(" ")
    return pair(entry.slice(0, at), entry.slice(at + 1))
  })
}
