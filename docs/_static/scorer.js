// Order of search results: pages that explain before pages that list.
const explains = /^(start|howto|concepts|from|gallery)\//;
// eslint-disable-next-line no-unused-vars
var Scorer = {
  score: ([docname, , , , score]) => (explains.test(docname) ? 1.5 * score : score),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
