import pytest

from leanpipe.corpus.filters.language import SPACELESS, detect_language, known_languages

SENTENCES = {
    "ar": "تقع المدينة القديمة على ضفة النهر، وكان الناس يزرعون القمح والشعير في الحقول المجاورة لها منذ قرون.",
    "cs": "Staré město leží na břehu řeky a lidé v něm po staletí pěstovali obilí a vyráběli látky na prodej.",
    "da": "Den gamle by ligger ved bredden af floden, og folk har i århundreder dyrket korn på markerne omkring den.",
    "de": "Die alte Stadt liegt am Ufer des Flusses, und die Leute bauten dort seit Jahrhunderten Getreide an.",
    "el": "Η παλιά πόλη βρίσκεται στην όχθη του ποταμού και οι άνθρωποι καλλιεργούσαν σιτάρι για αιώνες.",
    "en": "The old town lies on the bank of the river, and people have grown wheat in the fields for centuries.",
    "es": "La ciudad vieja está a la orilla del río y la gente ha cultivado trigo en los campos durante siglos.",
    "fa": "شهر قدیمی در کنار رودخانه قرار دارد و مردم قرن‌هاست که در زمین‌های اطراف آن گندم می‌کارند.",
    "fr": "La vieille ville se trouve au bord du fleuve et les gens y cultivent le blé depuis des siècles.",
    "it": "La città vecchia si trova sulla riva del fiume e la gente coltiva il grano nei campi da secoli.",
    "ja": "古い町は川のほとりにあり、人々は何世紀にもわたって周りの畑で麦を育ててきました。",
    "ko": "오래된 도시는 강가에 자리 잡고 있으며 사람들은 수백 년 동안 들판에서 밀을 길러 왔습니다.",
    "nl": "De oude stad ligt aan de oever van de rivier en de mensen verbouwen er al eeuwen tarwe op de velden.",
    "pl": "Stare miasto leży nad brzegiem rzeki, a ludzie od wieków uprawiają pszenicę na okolicznych polach.",
    "pt": "A cidade velha fica na margem do rio e as pessoas cultivam trigo nos campos há muitos séculos.",
    "ru": "Старый город стоит на берегу реки, и люди веками выращивали пшеницу на полях вокруг него.",
    "sv": "Den gamla staden ligger vid flodens strand och folk har odlat vete på åkrarna där i århundraden.",
    "tr": "Eski şehir nehrin kıyısında yer alır ve insanlar yüzyıllardır çevredeki tarlalarda buğday yetiştirir.",
    "vi": "Thành phố cổ nằm bên bờ sông và người dân đã trồng lúa mì trên những cánh đồng suốt nhiều thế kỷ.",
    "zh": "这座古城坐落在河边，几百年来人们一直在周围的田野里种植小麦，并在市场上出售布匹。",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_a_sentence_tells_its_language(language: str):
    assert detect_language(SENTENCES[language], 300) == language
    assert detect_language(SENTENCES[language] * 50, 60) == language


def test_the_sample_is_of_the_start_the_middle_and_the_end():
    german = SENTENCES["de"] * 20
    assert detect_language(f"Home About Contact Log in\n{german}", 300) == "de"
    assert detect_language(SENTENCES["ru"] + german + SENTENCES["ru"], 60) == "ru"
    assert detect_language(SENTENCES["ru"] + german + SENTENCES["ru"], 100_000) == "de"


def test_every_answer_is_known():
    assert set(SENTENCES) | SPACELESS - {"bo"} <= known_languages()


@pytest.mark.parametrize("text", ["", " ", "123 456", "\ud800"])
def test_no_text_has_some_language(text: str):
    assert detect_language(text, 300) in known_languages()
