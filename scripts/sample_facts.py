"""Relations of the sample paragraphs: how a fact is told and how it is asked for.

`{s}` stands for the subject and `{a}` for the answer. Phrases in `tells` follow a subject,
phrases in `whole` are full sentences, `asks` are questions; a bar separates alternatives.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Relation:
    """One relation with its answer kind and its alternative wordings."""

    kind: str
    tells: str
    whole: str
    asks: str


PERSON: Final = (
    Relation(
        kind="place",
        tells="was born in {a}|came from a poor family in {a}|spent an early childhood in {a}",
        whole="{a} was the birthplace of {s}|The parents of {s} kept a shop in {a}",
        asks="Where was {s} born?|In which town was {s} born?|What was the birthplace of {s}?"
        "|{s} came from which town?|Where did {s} spend the years of childhood?",
    ),
    Relation(
        kind="year",
        tells="was born in {a}|came into the world in {a}",
        whole="The birth of {s} is recorded for {a}|In {a} {s} was born",
        asks="When was {s} born?|In what year was {s} born?|What is the birth year of {s}?"
        "|{s} was born in which year?",
    ),
    Relation(
        kind="school",
        tells="studied at {a}|was trained at {a}|took a degree from {a}|entered {a} on a grant",
        whole="{a} admitted {s} as a student|The student years of {s} were spent at {a}",
        asks="Where did {s} study?|Which school trained {s}?|At what institution was {s} a student?"
        "|{s} took a degree from which institution?|What school admitted {s}?",
    ),
    Relation(
        kind="person",
        tells="was taught by {a}|took lessons from {a}|was a pupil of {a}",
        whole="{a} was the teacher of {s}|The first lessons of {s} were given by {a}",
        asks="Who taught {s}?|Who was the teacher of {s}?|{s} was a pupil of whom?"
        "|From whom did {s} take lessons?|Whose pupil was {s}?",
    ),
    Relation(
        kind="person",
        tells="married {a}|was the spouse of {a}|shared a household with {a} after the wedding",
        whole="{a} married {s}|The wedding of {s} and {a} was a quiet one",
        asks="Who married {s}?|Whom did {s} marry?|Who was the spouse of {s}?"
        "|{s} was married to whom?|What is the name of the person {s} wed?",
    ),
    Relation(
        kind="title",
        tells="is best known for {a}|became famous with {a}|owed a lasting fame to {a}",
        whole="{a} is the best known work of {s}|{a} made {s} famous",
        asks="What is {s} best known for?|Which work made {s} famous?"
        "|{s} became famous with what work?|What is the most celebrated work of {s}?",
    ),
    Relation(
        kind="prize",
        tells="received {a}|was honoured with {a}|won {a} late in life",
        whole="{a} went to {s}|A jury awarded {a} to {s}",
        asks="Which award did {s} receive?|What did a jury award to {s}?|What prize was won by {s}?"
        "|{s} was honoured with which award?",
    ),
    Relation(
        kind="place",
        tells="died in {a}|passed away in {a}|was buried in {a}",
        whole="The grave of {s} lies in {a}|Death came to {s} in {a}",
        asks="Where did {s} die?|Where is {s} buried?|In which town did {s} pass away?"
        "|{s} died in what town?|Where does the grave of {s} lie?",
    ),
    Relation(
        kind="hobby",
        tells="collected {a} in private|had a passion for {a}|spent every free hour on {a}",
        whole="Friends of {s} recall a passion for {a}|The great pastime of {s} was {a}",
        asks="What was the pastime of {s}?|What did {s} spend free time on?"
        "|{s} had a passion for what?|Which hobby filled the free hours of {s}?",
    ),
)
RIVER: Final = (
    Relation(
        kind="mountain",
        tells="rises on {a}|springs from the slopes of {a}|begins as a stream on {a}",
        whole="The source of {s} is on {a}|{a} feeds {s} with melting snow",
        asks="Where does {s} rise?|On which mountain is the source of {s}?"
        "|What mountain feeds {s}?|{s} begins on what mountain?",
    ),
    Relation(
        kind="length",
        tells="is {a} long|runs for {a}|covers {a} on its way",
        whole="The length of {s} is given as {a}|Surveyors put the course of {s} at {a}",
        asks="How long is {s}?|What is the length of {s}?|How far does {s} run?"
        "|{s} has what length?",
    ),
    Relation(
        kind="sea",
        tells="flows into {a}|empties into {a}|meets {a} in a wide delta",
        whole="{a} receives the waters of {s}|The mouth of {s} is on {a}",
        asks="Into what does {s} flow?|Where does {s} end?|What body of water receives {s}?"
        "|{s} empties into which water?|Where is the mouth of {s}?",
    ),
    Relation(
        kind="place",
        tells="passes through {a}|divides the old town of {a}|supplies the mills of {a}",
        whole="{a} stands on {s}|The largest port on {s} is {a}",
        asks="Which town stands on {s}?|What town does {s} pass through?"
        "|What is the largest town on {s}?|{s} runs through which town?",
    ),
    Relation(
        kind="person",
        tells="was first mapped by {a}|was explored by {a}|was charted in full by {a}",
        whole="{a} mapped {s}|An expedition under {a} explored {s}",
        asks="Who mapped {s}?|Who explored {s}?|By whom was {s} charted?"
        "|{s} was first mapped by whom?|Who led an expedition along {s}?",
    ),
    Relation(
        kind="year",
        tells="burst its banks in {a}|flooded the plain in {a}|froze from bank to bank in {a}",
        whole="The great flood on {s} came in {a}|In {a} {s} swept away four bridges",
        asks="When did {s} flood the plain?|In what year did {s} burst its banks?"
        "|What was the year of the great flood on {s}?|{s} swept away bridges in which year?",
    ),
)
TOWN: Final = (
    Relation(
        kind="person",
        tells="was founded by {a}|owes its existence to {a}|was laid out by {a}",
        whole="{a} founded {s}|The first house in {s} was built by {a}",
        asks="Who founded {s}?|Who was the founder of {s}?|By whom was {s} laid out?"
        "|{s} was founded by whom?|To whom does {s} owe its existence?",
    ),
    Relation(
        kind="year",
        tells="was founded in {a}|received its charter in {a}|became a borough in {a}",
        whole="The charter of {s} dates from {a}|In {a} {s} was granted the rights of a town",
        asks="When was {s} founded?|In what year did {s} receive its charter?"
        "|From which year does the charter of {s} date?|When did {s} become a borough?",
    ),
    Relation(
        kind="count",
        tells="has a population of {a}|is home to {a} people|counts {a} inhabitants",
        whole="At the last census {s} held {a} people|Some {a} people live in {s}",
        asks="How many people live in {s}?|What is the population of {s}?"
        "|How large is the population of {s}?|{s} is home to how many people?",
    ),
    Relation(
        kind="goods",
        tells="is known for {a}|trades in {a}|grew rich on the sale of {a}",
        whole="The main export of {s} is {a}|Merchants of {s} deal in {a}",
        asks="What is {s} known for?|What does {s} trade in?|What is the main export of {s}?"
        "|{s} grew rich on the sale of what?|Which goods do merchants of {s} sell?",
    ),
    Relation(
        kind="river",
        tells="lies on {a}|stands on the left bank of {a}|grew up at a ford over {a}",
        whole="{a} runs past {s}|The bridges of {s} cross {a}",
        asks="On which river does {s} lie?|What river runs past {s}?"
        "|{s} stands on the bank of what river?|Which river do the bridges of {s} cross?",
    ),
    Relation(
        kind="person",
        tells="is governed by {a}|elected {a} as mayor|has {a} for a mayor",
        whole="The mayor of {s} is {a}|{a} leads the council of {s}",
        asks="Who is the mayor of {s}?|Who governs {s}?|Whom did {s} elect as mayor?"
        "|{s} is governed by whom?|Who leads the council of {s}?",
    ),
)
SCHOOL: Final = (
    Relation(
        kind="person",
        tells="was founded by {a}|was endowed by {a}|exists thanks to a gift from {a}",
        whole="{a} founded {s}|The money for {s} was left by {a}",
        asks="Who founded {s}?|Who paid for {s}?|By whom was {s} endowed?|{s} was founded by whom?"
        "|Whose gift made {s} possible?",
    ),
    Relation(
        kind="year",
        tells="opened in {a}|was founded in {a}|took in its first class in {a}",
        whole="The doors of {s} opened in {a}|In {a} {s} began its work",
        asks="When did {s} open?|In what year was {s} founded?|When did {s} begin its work?"
        "|{s} took in its first class in which year?",
    ),
    Relation(
        kind="place",
        tells="is located in {a}|has its seat in {a}|occupies a palace in {a}",
        whole="{a} is the seat of {s}|The buildings of {s} are found in {a}",
        asks="Where is {s} located?|In which town is {s}?|What town is the seat of {s}?"
        "|{s} has its seat in which town?",
    ),
    Relation(
        kind="count",
        tells="enrols {a} students|teaches {a} students|has room for {a} students",
        whole="About {a} students attend {s}|The number of students at {s} is {a}",
        asks="How many students attend {s}?|What number of students does {s} teach?"
        "|How many students are enrolled at {s}?|{s} has room for how many students?",
    ),
    Relation(
        kind="person",
        tells="is directed by {a}|is headed by {a}|chose {a} as its director",
        whole="The director of {s} is {a}|{a} heads {s}",
        asks="Who directs {s}?|Who is the head of {s}?|Who was chosen as director of {s}?"
        "|{s} is headed by whom?",
    ),
    Relation(
        kind="goods",
        tells="keeps a collection of {a}|is visited for its {a}|guards a vault of {a}",
        whole="The cellars of {s} contain {a}|A donor left {s} a stock of {a}",
        asks="What does {s} collect?|What is kept in the cellars of {s}?"
        "|{s} keeps a collection of what?|What did a donor leave to {s}?",
    ),
)
