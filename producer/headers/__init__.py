"""The sizes of pictures, from their headers: no pixel is read, and no byte is trusted."""
