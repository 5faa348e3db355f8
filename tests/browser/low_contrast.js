// Which texts have too little contrast with their background: below 4.5 to 1, or 3 to 1 where they are large (WCAG 2.1, AA).
() => {
  const parse = color => {
    const parts = color.match(/[\d.]+/g).map(Number)
    return parts.length < 4 ? [...parts, 1] : parts
  }
  const over = (upper, lower) => [0, 1, 2].map(i => upper[i] * upper[3] + lower[i] * (1 - upper[3])).concat(1)
  const luminance = color => {
    const [r, g, b] = color.slice(0, 3).map(value => {
      value /= 255
      return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4
    })
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const known = new Map()
  const background = element => {
    if (!element) return [255, 255, 255, 1]
    if (!known.has(element)) {
      known.set(element, over(parse(getComputedStyle(element).backgroundColor), background(element.parentElement)))
    }
    return known.get(element)
  }
  const found = new Map()
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement
    const box = element.getBoundingClientRect()
    const shown = box.width && box.height && element.checkVisibility({ opacityProperty: true, visibilityProperty: true })
    if (!texts.currentNode.textContent.trim() || !shown || ["SCRIPT", "STYLE", "title"].includes(element.tagName)) continue
    const style = getComputedStyle(element)
    const behind = background(element)
    const color = over(parse(element.namespaceURI.endsWith("svg") ? style.fill : style.color), behind)
    const [light, dark] = [luminance(color), luminance(behind)].sort((a, b) => b - a)
    const ratio = (light + 0.05) / (dark + 0.05)
    const size = parseFloat(style.fontSize)
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700)
    if (ratio < (large ? 3 : 4.5)) {
      const text = texts.currentNode.textContent.trim().slice(0, 40)
      found.set(`${element.tagName}.${element.className}`, `${ratio.toFixed(2)} to 1: ${text}`)
    }
  }
  return [...found].map(each => each.join(" "))
}
