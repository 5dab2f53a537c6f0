// Notes of what the page shows in between, when nobody looks: each status of each request, each state of the
// connection, each announcement, and texts of one session that are shown in another.

const notes = { statuses: [], connection: [], announced: [], mixed: [] };
window.notes = notes;

const noteStatus = ({ dataset: { requestId, status } }) => {
  if (notes.statuses.findLast(([of]) => of === requestId)?.[1] !== status) notes.statuses.push([requestId, status]);
};

new MutationObserver((records) => {
  for (const { type, target, attributeName, addedNodes } of records) {
    if (attributeName === "data-status" && target.isConnected) noteStatus(target);
    if (attributeName === "data-state" && target.id === "connection-state") notes.connection.push(target.dataset.state);
    for (const node of addedNodes) {
      if (node.matches?.(".request")) noteStatus(node);
    }
    if (type === "childList" && target.id === "announcer" && target.textContent) notes.announced.push(target.textContent);
  }
  // Sessions named "only X" hold texts that begin with "secret of X"; no others may be seen beside that heading.
  const open = /^only (\w)$/.exec(document.querySelector("h1")?.textContent ?? "")?.[1];
  const seen = open && [...document.querySelector("main").textContent.matchAll(/secret of (\w)/g)].map((match) => match[1]);
  for (const name of seen || []) if (name !== open) notes.mixed.push(`${name} in ${open}`);
}).observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
