// The WebSocket: connects, reconnects, and asks for a picture only when the last one has been drawn,
// so that a slow browser or a hidden tab gets the newest picture next, never a queue of old ones.

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 5000;

export class Link {
  constructor({ onOpen, onLost, onText, onPicture }) {
    Object.assign(this, { onOpen, onLost, onText, onPicture });
    this.wait_ms = FIRST_WAIT_MS;
    this.connect();
  }

  connect() {
    const url = new URL("stream", location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => {
      this.wait_ms = FIRST_WAIT_MS;
      this.onOpen();
    };
    this.socket.onmessage = ({ data }) => {
      if (typeof data === "string") this.onText(JSON.parse(data));
      else this.onPicture(data);
    };
    this.socket.onclose = () => {
      this.onLost();
      setTimeout(() => this.connect(), this.wait_ms);
      this.wait_ms = Math.min(this.wait_ms * 1.6, LONGEST_WAIT_MS);
    };
  }

  askPicture() {
    this.send({ want: "picture" });
  }

  choose(source) {
    this.send({ source });
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }
}
