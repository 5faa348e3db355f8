"""What travels: messages, codecs, rejections, control messages, the Go profile. Nothing here has state."""
