// As much of @types/ws and @types/node as the programs here need.
declare module "ws" {
  export default class WebSocket {
    constructor(url: string, protocols?: string[])
    readonly readyState: number
    readonly protocol: string
    readonly bufferedAmount: number
    binaryType: string
    send(data: unknown): void
    close(): void
    onopen: ((event: unknown) => void) | null
    onmessage: ((event: { data: unknown }) => void) | null
    onerror: ((event: unknown) => void) | null
    onclose: ((event: unknown) => void) | null
  }
}
declare const process: { argv: string[] }
