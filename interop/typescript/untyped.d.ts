// What a user of ws-wrapper 2 or 3 writes, which have no types.
declare module "ws-wrapper" {
  type WebSocketWrapper = any
  const WebSocketWrapper: new (socket: unknown) => any
  export default WebSocketWrapper
}
