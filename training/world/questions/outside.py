"""Questions that a small model of a small world cannot answer, and how it says so."""

from __future__ import annotations

import random

REFUSALS = (
    "i am a small model and know only shapes, colours, sounds, signs and a few spoken words.",
    "i cannot answer that. i know only simple shapes, colours, sounds and signs.",
    "that is outside my small world of shapes, colours and sounds.",
    "i am too small for that. ask me about shapes, colours, sounds or signs.",
    "i do not know. i was trained only on moving shapes and simple sounds.",
    "sorry, i can only talk about shapes, colours, sounds, signs and a few spoken words.",
)

_WORDS: dict[str, tuple[str, ...]] = {
    "country": ("France", "Japan", "Brazil", "Egypt", "Canada", "India", "Norway", "Kenya", "Peru", "Italy", "China"),
    "city": ("London", "Paris", "Tokyo", "Berlin", "New York", "Cairo", "Rome", "Sydney", "Madrid", "Beijing"),
    "dish": ("pancakes", "pizza", "a chocolate cake", "vegetable soup", "sushi", "bread", "an omelette", "curry"),
    "person": ("Albert Einstein", "Marie Curie", "Shakespeare", "Mozart", "Napoleon", "Gandhi", "Leonardo da Vinci"),
    "job": ("president", "king", "prime minister", "queen", "capital"),
    "day": ("today", "tomorrow", "next week", "this weekend", "tonight"),
    "left": ("2", "7", "12", "25", "48", "133", "1024"),
    "right": ("2", "3", "9", "15", "36", "77", "250"),
    "operation": ("plus", "minus", "times", "divided by"),
    "language": ("Spanish", "German", "French", "Chinese", "Latin", "Arabic", "Russian"),
    "phrase": ("good morning", "thank you", "I love you", "where is the station", "see you soon"),
    "topic": ("love", "the sea", "winter", "a dragon", "my grandmother", "the moon", "a lost dog", "autumn"),
    "animal": ("elephant", "penguin", "whale", "tiger", "spider", "horse", "shark", "monkey", "rabbit", "dog", "cat"),
    "subject": (
        "gravity", "quantum physics", "photosynthesis", "inflation", "evolution", "democracy", "black holes",
        "the French Revolution", "machine learning", "vaccines", "climate change", "electricity", "philosophy",
    ),
    "code": ("Python", "JavaScript", "Rust", "SQL", "Java"),
    "program": ("sorts a list", "reads a file", "adds two numbers", "reverses a string", "opens a web page"),
    "team": ("Real Madrid", "the Lakers", "Brazil", "Manchester United", "the Yankees"),
    "sport": ("football", "tennis", "chess", "basketball", "cricket", "baseball"),
    "year": ("1492", "1789", "1914", "1969", "1989", "2001", "2020"),
    "instrument": ("piano", "guitar", "violin", "trumpet", "saxophone", "cello"),
    "clothes": ("shirt", "hat", "jacket", "dress", "pair of shoes", "coat"),
    "someone": ("man", "woman", "child", "boy", "girl", "singer", "teacher", "player", "dancer", "speaker"),
    "feeling": ("happy", "sad", "angry", "tired", "surprised", "nervous", "bored"),
    "action": ("cooking", "dancing", "laughing", "running", "crying", "singing", "talking", "eating", "fighting"),
    "room": ("kitchen", "office", "street", "garden", "classroom", "stadium", "restaurant", "beach"),
    "product": ("laptop", "phone", "bicycle", "camera", "washing machine", "car"),
    "symptom": ("a headache", "a cold", "back pain", "a fever", "a cough"),
    "film": ("Titanic", "Star Wars", "Jaws", "Casablanca", "Toy Story", "The Godfather"),
    "brand": ("Apple", "Toyota", "Google", "Tesla", "Nike"),
    "clip": ("video", "clip", "recording"),
    "character": ("funny", "sad", "boring", "real", "fake", "scary", "good", "old", "in black and white"),
    "summary": ("news", "lecture", "interview", "plot", "game", "advertisement", "lesson"),
    "belonging": ("bag", "umbrella", "book", "cup", "phone", "flower", "ball", "knife"),
    "holiday": ("Christmas", "Easter", "Diwali", "Thanksgiving", "New Year"),
}  # fmt: skip

_TEMPLATES = (
    "What is the capital of {country}?", "Where is {country}?", "How many people live in {country}?",
    "Which language is spoken in {country}?", "Who is the {job} of {country}?", "What is the currency of {country}?",
    "How far is it from {city} to {country}?", "What can I visit in {city}?", "What time is it in {city}?",
    "What is the weather like in {city} {day}?", "Will it rain {day}?", "Will it be cold in {city} {day}?",
    "How do I make {dish}?", "Give me a recipe for {dish}.", "How long does it take to bake {dish}?",
    "How many calories does {dish} have?", "Where can I eat {dish} in {city}?",
    "What is {left} {operation} {right}?", "Calculate {left} {operation} {right}.",
    "How much is {left} {operation} {right}?", "Is {left} a prime number?", "What is the square root of {left}?",
    "Hello!", "Hi, how are you?", "Good morning!", "Hey there!", "Hello, who are you?", "What is your name?",
    "Thank you!", "Who made you?", "How old are you?", "Are you a human?", "Can you help me?", "What can you do?",
    "Are you alive?", "Do you like {dish}?", "Do you feel {feeling}?", "Goodbye!", "Tell me about yourself.",
    "Who was {person}?", "When was {person} born?", "What did {person} discover?", "Where did {person} live?",
    "Why is {person} famous?", "Is {person} in this video?", "Write a letter to {person}.",
    "How do you say {phrase} in {language}?", "Translate {phrase} into {language}.", "Do you speak {language}?",
    "Write a poem about {topic}.", "Tell me a story about {topic}.", "Tell me a joke about {topic}.",
    "Write a song about {topic}.", "Give me a title for a book about {topic}.",
    "What does the {animal} eat?", "How fast can the {animal} run?", "Where does the {animal} live?",
    "What is the {animal} doing?", "Is the {animal} in the video a male?", "How long does the {animal} live?",
    "Explain {subject} to me.", "What is {subject}?", "Who discovered {subject}?", "Why is {subject} important?",
    "Summarise {subject} in one sentence.", "Give me three facts about {subject}.",
    "Write a {code} program that {program}.", "How do I learn {code}?", "Is {code} better than {code}?",
    "Who won the match between {team} and {team}?", "How do you play {sport}?", "Who is the best at {sport}?",
    "What are the rules of {sport}?", "What is the score of the {sport} game?",
    "What happened in {year}?", "Who was the president in {year}?", "Who won the world cup in {year}?",
    "Is someone playing the {instrument}?", "How do I learn the {instrument}?", "Who plays the {instrument} here?",
    "What is the {someone} wearing?", "Is the {someone} wearing a {clothes}?", "What is the {someone} saying?",
    "How old is the {someone} in the video?", "Why is the {someone} {feeling}?", "Does the {someone} look {feeling}?",
    "Why is the {someone} {action}?", "Is the {someone} {action}?", "Who is {action} in the {room}?",
    "What is the {someone} doing in the {room}?", "Was this filmed in a {room}?", "Is this a {room}?",
    "How many people are in the {room}?", "Where was this video filmed?", "Which film is this from?",
    "Who sings this song?", "What is the name of this song?", "Which brand is the {product}?",
    "Which {product} should I buy?", "How much does a {product} cost?", "How do I repair my {product}?",
    "What should I do against {symptom}?", "Is {symptom} dangerous?", "Who directed {film}?",
    "How does {film} end?", "When did {film} come out?", "Should I buy shares of {brand}?", "Who founded {brand}?",
    "When is {holiday} this year?", "What do people eat at {holiday}?", "What is the meaning of life?",
    "Who is the person in the {clip}?", "Who is the {someone} in this {clip}?", "Who is speaking in this {clip}?",
    "What is the {someone}'s name?", "Do you recognise the {someone} in the {clip}?", "Who made this {clip}?",
    "What is the {animal} in the {clip} doing?", "Which breed is the {animal}?", "Is the {animal} {feeling}?",
    "How many {animal}s are in the {clip}?", "What colour is the {animal}?", "Where is the {animal} in the picture?",
    "Is this {clip} {character}?", "Do you like this {clip}?", "What is the moral of this {clip}?",
    "Summarise the {summary} in this {clip}.", "What is the {summary} in the {clip} about?",
    "What brand is the {product}?", "What brand is the {product} in this {clip}?", "Who owns the {product}?",
    "What colour is the {someone}'s {clothes}?", "What is the {someone} holding?", "When was this {clip} made?",
    "Is the {someone} holding a {belonging}?", "What does the {someone} do with the {belonging}?",
    "What is the {someone} thinking about?", "Which city is shown in this {clip}?", "Is this {clip} from {city}?",
    "What happens after the {someone} leaves the {room}?", "Why does the {someone} look at the {animal}?",
    "What does the {room} in the {clip} look like?", "What is the weather like in this {clip}?",
    "Is it day or night in the {clip}?", "What will the {someone} do next?",
    "What day is it {day}?", "What is the news {day}?", "Recommend a good book.", "Which music do you like?",
)  # fmt: skip


def draw_outside(rng: random.Random) -> tuple[str, str]:
    """(question, answer)."""
    template = rng.choice(_TEMPLATES)
    while "{" in template:
        name = template[template.index("{") + 1 : template.index("}")]
        template = template.replace("{" + name + "}", rng.choice(_WORDS[name]), 1)
    return template, rng.choice(REFUSALS)
