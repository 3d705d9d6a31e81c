"""Further relations of the sample paragraphs: inventions, works, battles and animals."""

from typing import Final

from albert_deploy.scripts.sample_facts import Relation

DEVICE: Final = (
    Relation(
        kind="person",
        tells="was invented by {a}|was devised by {a}|is the work of {a}",
        whole="{a} invented {s}|The patent on {s} was granted to {a}",
        asks="Who invented {s}?|Who was the inventor of {s}?|By whom was {s} devised?"
        "|{s} was invented by whom?|Who held the patent on {s}?",
    ),
    Relation(
        kind="year",
        tells="was patented in {a}|was invented in {a}|was first shown in {a}",
        whole="The patent on {s} dates from {a}|In {a} {s} was presented to the public",
        asks="When was {s} invented?|In what year was {s} patented?|When was {s} first shown?"
        "|{s} was presented to the public in which year?",
    ),
    Relation(
        kind="material",
        tells="is made of {a}|was built from {a}|consists mainly of {a}",
        whole="The body of {s} is made of {a}|Early models of {s} used {a}",
        asks="What is {s} made of?|From what was {s} built?|Which material is used for {s}?"
        "|{s} consists mainly of what?",
    ),
    Relation(
        kind="purpose",
        tells="is used to {a}|was designed to {a}|made it possible to {a}",
        whole="With {s} one could {a}|Sailors bought {s} to {a}",
        asks="What is {s} used for?|What was {s} designed to do?|What is the purpose of {s}?"
        "|{s} made it possible to do what?",
    ),
    Relation(
        kind="place",
        tells="was first used in {a}|was tested in {a}|was produced in a workshop in {a}",
        whole="A workshop in {a} produced {s}|The first trial of {s} took place in {a}",
        asks="Where was {s} first used?|In which town was {s} tested?|Where was {s} produced?"
        "|{s} had its first trial in which town?",
    ),
    Relation(
        kind="price",
        tells="cost {a} at first|was sold for {a}|could be bought for {a}",
        whole="The price of {s} was {a}|Dealers asked {a} for {s}",
        asks="How much did {s} cost?|What was the price of {s}?|For how much was {s} sold?"
        "|{s} could be bought for what sum?",
    ),
)
WORK: Final = (
    Relation(
        kind="person",
        tells="was written by {a}|is a work of {a}|came from the pen of {a}",
        whole="{a} wrote {s}|The author of {s} is {a}",
        asks="Who wrote {s}?|Who is the author of {s}?|By whom was {s} written?"
        "|{s} was written by whom?|From whose pen did {s} come?",
    ),
    Relation(
        kind="year",
        tells="was published in {a}|appeared in {a}|was finished in {a}",
        whole="The first edition of {s} is from {a}|In {a} {s} came out in print",
        asks="When was {s} published?|In what year did {s} appear?|When did {s} come out in print?"
        "|{s} was finished in which year?",
    ),
    Relation(
        kind="place",
        tells="was first performed in {a}|is set in {a}|had its premiere in {a}",
        whole="The premiere of {s} took place in {a}|A theatre in {a} first staged {s}",
        asks="Where was {s} first performed?|In which town did {s} have its premiere?"
        "|{s} was first staged in which town?|Where did the premiere of {s} take place?",
    ),
    Relation(
        kind="subject",
        tells="tells of {a}|deals with {a}|is concerned with {a}",
        whole="The theme of {s} is {a}|Readers of {s} learn about {a}",
        asks="What does {s} deal with?|What is the theme of {s}?|What is {s} about?"
        "|{s} tells of what?",
    ),
    Relation(
        kind="person",
        tells="was translated by {a}|reached foreign readers through {a}",
        whole="{a} translated {s}|The translation of {s} is due to {a}",
        asks="Who translated {s}?|By whom was {s} translated?"
        "|To whom is the translation of {s} due?|{s} was translated by whom?",
    ),
    Relation(
        kind="small",
        tells="has {a} chapters|is divided into {a} chapters|runs to {a} chapters",
        whole="There are {a} chapters in {s}|The number of chapters in {s} is {a}",
        asks="How many chapters does {s} have?|Into how many chapters is {s} divided?"
        "|What is the number of chapters in {s}?|{s} runs to how many chapters?",
    ),
)
BATTLE: Final = (
    Relation(
        kind="date",
        tells="was fought on {a}|took place on {a}|began on {a}",
        whole="The date of {s} is {a}|On {a} the armies met in {s}",
        asks="When was {s} fought?|On what date did {s} take place?|What is the date of {s}?"
        "|{s} began on which day?",
    ),
    Relation(
        kind="person",
        tells="was won by {a}|ended in a triumph for {a}|made a hero of {a}",
        whole="{a} won {s}|The victor of {s} was {a}",
        asks="Who won {s}?|Who was the victor of {s}?|By whom was {s} won?"
        "|{s} was won by whom?|Whom did {s} make a hero?",
    ),
    Relation(
        kind="person",
        tells="was lost by {a}|ended the career of {a}|was a disaster for {a}",
        whole="{a} lost {s}|The defeated general in {s} was {a}",
        asks="Who lost {s}?|Who was defeated in {s}?|Whose career did {s} end?"
        "|{s} was lost by whom?|For whom was {s} a disaster?",
    ),
    Relation(
        kind="count",
        tells="cost {a} lives|claimed {a} victims|left {a} men dead",
        whole="In {s} {a} soldiers fell|The dead of {s} numbered {a}",
        asks="How many died in {s}?|How many lives did {s} cost?|What was the death toll of {s}?"
        "|{s} claimed how many victims?",
    ),
    Relation(
        kind="cause",
        tells="was fought over {a}|broke out because of {a}|arose from {a}",
        whole="The cause of {s} was {a}|Chroniclers blame {s} on {a}",
        asks="What caused {s}?|Why was {s} fought?|What was the cause of {s}?"
        "|{s} arose from what?|On what do chroniclers blame {s}?",
    ),
)
ANIMAL: Final = (
    Relation(
        kind="habitat",
        tells="lives in {a}|is found in {a}|nests in {a}",
        whole="The home of {s} is in {a}|Travellers meet {s} in {a}",
        asks="Where does {s} live?|In what habitat is {s} found?|Where can {s} be met?"
        "|{s} nests in what place?",
    ),
    Relation(
        kind="food",
        tells="feeds on {a}|eats {a}|survives the winter on {a}",
        whole="The diet of {s} consists of {a}|The favourite food of {s} is {a}",
        asks="What does {s} eat?|What is the diet of {s}?|On what does {s} feed?"
        "|{s} survives the winter on what?",
    ),
    Relation(
        kind="weight",
        tells="weighs {a}|reaches a weight of {a}|weighs up to {a}",
        whole="The weight of {s} is {a}|A grown male of {s} weighs {a}",
        asks="How much does {s} weigh?|What is the weight of {s}?|How heavy is {s}?"
        "|{s} reaches what weight?",
    ),
    Relation(
        kind="person",
        tells="was first described by {a}|was discovered by {a}|was named by {a}",
        whole="{a} discovered {s}|The first description of {s} is by {a}",
        asks="Who discovered {s}?|Who first described {s}?|By whom was {s} named?"
        "|{s} was discovered by whom?",
    ),
    Relation(
        kind="year",
        tells="was first described in {a}|was discovered in {a}|was put under protection in {a}",
        whole="The first record of {s} is from {a}|In {a} {s} was seen for the first time",
        asks="When was {s} discovered?|In what year was {s} first described?"
        "|From which year is the first record of {s}?|When was {s} put under protection?",
    ),
    Relation(
        kind="small",
        tells="lays {a} eggs|tends {a} young at a time|raises {a} young each spring",
        whole="A pair of {s} raises {a} young|In the nest of {s} lie {a} eggs",
        asks="How many eggs does {s} lay?|How many young does {s} raise?"
        "|{s} tends how many young?|What is the number of young that {s} raises?",
    ),
)
