// Colour maps: perceptually uniform, so that equal steps in value look equal, and safe for colour-blind readers.
const ANCHORS = {
  viridis: ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"],
  cividis: ["00224e", "123570", "3b496c", "575d6d", "707173", "8a8678", "a59c74", "c3b369", "e1cc55", "fee838"],
  inferno: ["000005", "290d54", "64176e", "992961", "cc4245", "f06e21", "faa814", "f2de5e", "fcffbf"],
};

export const COLOUR_MAPS = Object.keys(ANCHORS);

const tables = new Map();

/** 256 colours, [r, g, b] in 0..255; an unknown name gives the first map. */
export function colourTable(name) {
  const known = name in ANCHORS ? name : COLOUR_MAPS[0];
  if (!tables.has(known)) tables.set(known, interpolate(ANCHORS[known]));
  return tables.get(known);
}

function interpolate(anchors) {
  const colours = anchors.map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return Array.from({ length: 256 }, (_, value) => {
    const position = (value / 255) * (colours.length - 1);
    const below = Math.min(Math.floor(position), colours.length - 2);
    return colours[below].map((c, i) => Math.round(c + (colours[below + 1][i] - c) * (position - below)));
  });
}
