/**
 * A conversation with a model that has a chat template: what was said, and the keys and values of it that need not be computed again.
 * Must not know terminals.
 */
import { type Cache, type ChatMessage, type Model, PeftError, type Tokenizer } from "@peftjs/core"
import { type GenerateTextOptions, generateText } from "@peftjs/models"

export interface Conversation {
  /** The system message, or undefined. */
  readonly system: string | undefined
  /**
   * Answers. A stopped answer stays in the conversation as far as it came; after an error it is as it was before.
   *
   * @returns why the answer ended; "stopped" by the signal
   * @throws what the template and generation throw
   */
  say(
    text: string,
    turn: { readonly onText: (text: string) => void; readonly signal: AbortSignal },
  ): Promise<"token" | "stop" | "length" | "stopped">
  /** Forgets what was said and, unless a system message is given, keeps the old one. */
  reset(system?: string): void
  /** Gives the memory back. */
  free(): void
}

/** Throws E_TOKENIZER without a tokenizer, E_CHAT_TEMPLATE without a usable template. */
export function makeConversation(
  model: Model,
  options: Pick<GenerateTextOptions, "maxNewTokens" | "pick" | "stop"> & { readonly system?: string | undefined },
): Conversation {
  const tokenizer = tokenizerOf(model)
  tokenizer.applyChatTemplate([{ role: "user", content: "Hi" }], { addGenerationPrompt: true })
  let { system } = options
  let said: ChatMessage[] = []
  let cache: Cache = model.makeCache()
  let cached: readonly number[] = []
  const forget = (): void => {
    cache.free()
    cache = model.makeCache()
    cached = []
  }
  const promptOf = (messages: readonly ChatMessage[]): number[] => {
    const first = system === undefined ? [] : [{ role: "system", content: system }]
    const text = tokenizer.applyChatTemplate([...first, ...messages], { addGenerationPrompt: true })
    return tokenizer.encode(text, { addSpecialTokens: false })
  }
  return {
    get system() {
      return system
    },
    async say(content, { onText, signal }) {
      const messages = [...said, { role: "user", content }]
      const prompt = promptOf(messages)
      // A template may leave out or spell otherwise what was said; then everything is computed again.
      if (cached.length >= prompt.length || cached.some((id, i) => prompt[i] !== id)) forget()
      const made: number[] = []
      let answer = ""
      const keep = (): void => {
        cached = [...prompt, ...made].slice(0, cache.length)
        said = [...messages, { role: "assistant", content: answer }]
      }
      try {
        const { end } = await generateText(model, prompt, {
          maxNewTokens: options.maxNewTokens,
          ...(options.pick ? { pick: options.pick } : {}),
          ...(options.stop ? { stop: options.stop } : {}),
          cache,
          signal,
          onToken: ([id]) => made.push(id as number),
          onText(piece) {
            answer += piece
            onText(piece)
          },
        })
        keep()
        return end
      } catch (error) {
        if (signal.aborted && error === signal.reason) {
          keep()
          return "stopped"
        }
        forget()
        throw error
      }
    },
    reset(given) {
      system = given ?? system
      said = []
      forget()
    },
    free: () => cache.free(),
  }
}

/** Throws E_TOKENIZER. */
export function tokenizerOf({ tokenizer, name }: Model): Tokenizer {
  if (tokenizer) return tokenizer
  throw new PeftError("E_TOKENIZER", `[cli] ${name} has no tokenizer.json; generate needs one`)
}
