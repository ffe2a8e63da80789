"""The studies that come with stressvm, each a short file that looks like one of your own."""
