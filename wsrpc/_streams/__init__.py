"""What has arrived and is not read yet: mailboxes, inboxes, and the streams that users read."""
