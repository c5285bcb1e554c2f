// Order of search results: pages that explain before pages that list.
const dropIns = /room-fastgen\.integrations/;
const explains = /^(start|howto|concepts|from|gallery)\//;
var Scorer = {
  score: ([docname, , , , score]) =>
    score * (explains.test(docname) ? 1.5 : dropIns.test(docname) ? 0.6 : 1),
  objNameMatch: 25,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
