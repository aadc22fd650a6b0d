/** `peft generate`: sampling, stop strings, and a conversation driven through a pipe. */
import type { ChildProcess } from "node:child_process"
import { cpSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { cpu } from "@peftjs/backend-cpu"
import { loadCausalLM } from "@peftjs/models/node"
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest"
import { makeConversation } from "../src/conversation.ts"
import { type Finished, finish, fixtures, makeWorkplace, peft, peftJson, start, type Workplace } from "./run-peft.ts"

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 })

let work: Workplace
let plain: string
beforeAll(() => {
  work = makeWorkplace()
  // One without a chat template.
  plain = work.path("plain")
  cpSync(work.model, plain, { recursive: true })
  rmSync(join(plain, "chat_template.jinja"), { force: true })
})
afterAll(() => work.remove())

type Said = { text: string; ids: number[] }
const say = (...args: string[]): Promise<Said> =>
  peftJson<Said>("generate", "--model", work.model, "--prompt", "What is 2 and 2?", "--chat", ...args)

describe.concurrent("one answer", () => {
  it("is drawn by the seed, in the range asked for", async () => {
    const [greedy, cold, one, two, again, top] = await Promise.all([
      say("--max-new-tokens", "12"),
      say("--max-new-tokens", "12", "--temperature", "0"),
      say("--max-new-tokens", "12", "--temperature", "5", "--seed", "1"),
      say("--max-new-tokens", "12", "--temperature", "5", "--seed", "2"),
      say("--max-new-tokens", "12", "--temperature", "5", "--seed", "1"),
      say("--max-new-tokens", "12", "--temperature", "5", "--seed", "1", "--top-k", "1"),
    ])
    expect(greedy.ids).toHaveLength(12)
    expect(cold).toEqual(greedy)
    expect(again).toEqual(one)
    expect(two.ids).not.toEqual(one.ids)
    expect(one.ids).not.toEqual(greedy.ids)
    // The tiny model's vocabulary repeats its rows: equals stay, and any of them may be drawn.
    const row = (ids: readonly number[]): number[] => ids.map((id) => id % 128)
    expect(row(top.ids)).toEqual(row(greedy.ids))
  })

  it("does not repeat itself under a penalty", async () => {
    const { ids } = await say("--repetition-penalty", "1e9", "--max-new-tokens", "40")
    expect(new Set(ids).size).toBe(ids.length)
  })

  it("ends at a stop string, on stdout too", async () => {
    const { text } = await say("--max-new-tokens", "20")
    const letters = text.replaceAll("\uFFFD", " ").trim()
    const stop = letters.slice(2, 4)
    const short = await say("--max-new-tokens", "20", "--stop", "never said", "--stop", stop)
    expect(short.text).toBe(text.slice(0, text.indexOf(stop)))
    expect(short.ids.length).toBeLessThan(20)
    const args = ["--model", work.model, "--prompt", "What is 2 and 2?", "--chat", "--max-new-tokens", "20"]
    const { stdout } = await peft("generate", ...args, "--stop", stop)
    expect(stdout).toBe(`${short.text}\n`)
  })

  it("refuses what cannot be", async () => {
    const refused = async (code: string, ...args: string[]): Promise<void> => {
      const { code: exit, stdout, stderr } = await peft("generate", ...args)
      expect([exit, stdout]).toEqual([1, ""])
      expect(stderr).toContain(`(${code})`)
    }
    const base = ["--model", work.model, "--prompt", "a"]
    await Promise.all([
      refused("E_OPTION", ...base, "--top-k", "0"),
      refused("E_OPTION", ...base, "--top-p", "0"),
      refused("E_OPTION", ...base, "--temperature", "hot"),
      refused("E_OPTION", ...base, "--system", "Be brief."),
      refused("E_OPTION", ...base, "--interactive", "--json"),
      refused("E_OPTION", ...base, "--stop", ""),
      refused("E_CHAT_TEMPLATE", "--model", plain, "--interactive"),
      refused("E_TOKENIZER", "--model", join(fixtures, "models", "llama"), "--interactive"),
    ])
  })
})

/** A running conversation: what it has written, and a way to wait for more of it. */
function talk(...args: string[]) {
  const child: ChildProcess = start(["generate", "--interactive", "--model", work.model, ...args])
  const seen = { stdout: "", stderr: "" }
  for (const name of ["stdout", "stderr"] as const) {
    child[name]?.on("data", (piece: Buffer) => {
      seen[name] += piece.toString()
    })
  }
  return {
    child,
    seen,
    ended: finish(child),
    type: (text: string) => child.stdin?.write(text),
    until: (what: () => boolean) => vi.waitFor(() => expect(what()).toBe(true), { timeout: 60_000, interval: 20 }),
  }
}
const answers = (stdout: string): string[] => stdout.split("\n").slice(0, -1)

describe.concurrent("a conversation", () => {
  // Letters only, so that an answer is one line.
  const short = ["--max-new-tokens", "6", "--stop", "\n"]
  const piped = async (input: string, ...args: string[]): Promise<Finished> => {
    const { child, ended } = talk(...short, ...args)
    child.stdin?.end(input)
    return ended
  }

  it("remembers what was said until told to forget", async () => {
    const { code, stdout } = await piped("first\nsecond\n/reset\nfirst\n/exit\nnever read\n")
    const said = answers(stdout)
    expect(code).toBe(0)
    expect(said).toHaveLength(3)
    expect(said[2]).toBe(said[0])
    const other = answers((await piped("second\n")).stdout)
    expect(other[0]).not.toBe(said[1])
  })

  it("says in each turn what the whole conversation gives at once", async () => {
    const file = work.path("turns.json")
    const { stdout } = await piped("first\nsecond\n")
    const [one = "", two] = answers(stdout)
    const turns = [
      { role: "user", content: "first" },
      { role: "assistant", content: one },
      { role: "user", content: "second" },
    ]
    writeFileSync(file, JSON.stringify(turns))
    // ChatML, written out.
    const prompt = `${turns.map(({ role, content }) => `<|im_start|>${role}\n${content}<|im_end|>\n`).join("")}<|im_start|>assistant\n`
    const { text } = await peftJson<Said>("generate", "--model", work.model, "--prompt", prompt, ...short)
    expect(text).toBe(two)
  })

  it("takes a system message, lines that go on, and a first message", async () => {
    const system = await piped("/system Speak.\n/system\nfirst\n")
    const option = await piped("first\n", "--system", "Speak.")
    expect(system.stdout).toBe(option.stdout)
    expect(system.stderr).toMatch(/system message set[\s\S]*Speak\./)
    expect((await piped("", "--prompt", "one\ntwo")).stdout).toBe((await piped("one\\\ntwo\n")).stdout)
    expect((await piped("first\n")).stdout).not.toBe(option.stdout)
  })

  it("explains itself on stderr", async () => {
    const { code, stdout, stderr } = await piped("/help\n/what\n\n   \n/system\n")
    expect([code, stdout]).toEqual([0, ""])
    expect(stderr).toMatch(/\/reset[\s\S]*\/system TEXT[\s\S]*\/exit/)
    expect(stderr).toContain("no command /what")
    expect(stderr).toContain("no system message")
    const cut = await piped("first\n")
    expect(cut.stderr).toContain("--max-new-tokens allows more")
  })

  it("Ctrl-C stops the answer, not the program; twice without an answer it leaves", async () => {
    const { child, seen, ended, type, until } = talk("--max-new-tokens", "100000")
    type("first\n")
    await until(() => seen.stdout.length > 20)
    child.kill("SIGINT")
    await until(() => seen.stderr.includes("stopped"))
    const before = seen.stdout.length
    type("second\n")
    await until(() => seen.stdout.length > before + 20)
    child.kill("SIGINT")
    await until(() => seen.stderr.split("stopped").length === 3)
    child.kill("SIGINT")
    await until(() => seen.stderr.includes("Ctrl-C again"))
    child.kill("SIGINT")
    expect((await ended).code).toBe(0)
  })
})

describe("what a conversation keeps", () => {
  it("computes each token once, while what it said is spelled the same; errors and stops leave it whole", async () => {
    const loaded = await loadCausalLM(work.model, { backend: await cpu({ kernels: "reference" }) })
    const tokenizer = loaded.tokenizer as NonNullable<typeof loaded.tokenizer>
    let caches = 0
    const prompts: number[][] = []
    const model = {
      ...loaded,
      makeCache: () => {
        caches++
        return loaded.makeCache()
      },
    }
    const said = tokenizer.encode("Four it is<|im_end|>", { addSpecialTokens: false })
    let at = 0
    const conversation = makeConversation(model, {
      maxNewTokens: 50,
      pick: (_, __, ids) => {
        if (at % said.length === 0) prompts.push([...ids])
        return said[at++ % said.length] as number
      },
    })
    const say = (text: string, signal = new AbortController().signal) => {
      let told = ""
      const onText = (piece: string): void => {
        told += piece
      }
      return conversation.say(text, { onText, signal }).then((end) => [end, told])
    }
    expect(await say("What is 2 and 2?")).toEqual(["token", "Four it is"])
    expect(await say("And 3 and 1?")).toEqual(["token", "Four it is"])
    expect(caches).toBe(1)
    const turn = (role: string, content: string) => ({ role, content })
    const whole = (...messages: { role: string; content: string }[]): number[] =>
      tokenizer.encode(tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true }), {
        addSpecialTokens: false,
      })
    const two = [turn("user", "What is 2 and 2?"), turn("assistant", "Four it is"), turn("user", "And 3 and 1?")]
    expect(prompts[1]).toEqual(whole(...two))
    const stopped = new AbortController()
    stopped.abort()
    expect(await say("Why?", stopped.signal)).toEqual(["stopped", ""])
    expect(await say("Sure?")).toEqual(["token", "Four it is"])
    const four = [...two, turn("assistant", "Four it is"), turn("user", "Why?"), turn("assistant", "")]
    expect(prompts[2]).toEqual(whole(...four, turn("user", "Sure?")))
    conversation.reset("Be brief.")
    await say("Hi")
    expect(prompts[3]).toEqual(whole(turn("system", "Be brief."), turn("user", "Hi")))
    conversation.free()
  })
})
