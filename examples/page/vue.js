// Composables for Vue.

import { onScopeDispose, shallowRef } from "vue"

export function useStatus(client) {
  const status = shallowRef(client.status.get())
  onScopeDispose(client.status.subscribe((state) => (status.value = state)))
  return status
}

export function useFollow(client, event, args, key) {
  const run = client.with({ key }).follow(event, ...args)
  const items = shallowRef([])
  onScopeDispose(() => run.return())
  const read = async () => {
    for await (const item of run) items.value = [...items.value, item]
  }
  return { items, ended: read() }
}
