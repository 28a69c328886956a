"""The interactive console, in Textual."""
